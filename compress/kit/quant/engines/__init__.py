"""Other tools' quantizers behind our own file: they choose ranges and weights, we write the graph that ships.

An engine is asked for its decisions only: the grid of every map it rounds, the integers of every weight. Exported by
their own ways its graphs keep float weights behind QuantizeLinear and leave every convolution whose output isn't
rounded, two thirds of a U²-Net's, to float kernels in ONNX Runtime.
"""
