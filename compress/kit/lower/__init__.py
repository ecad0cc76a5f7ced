"""ONNX graphs lowered to TensorFlow functions: one small function per operator, feature maps held channels last.

``network.lower`` is the way in. Importing it imports TensorFlow, so do it where it is used.
"""
