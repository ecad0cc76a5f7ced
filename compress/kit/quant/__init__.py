"""Quantization of an ONNX graph: what is rounded where and why, calibration, rounding, the graph that ships."""
