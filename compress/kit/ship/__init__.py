"""What a file that ships needs: graphs, their calibration, quantization and proof."""
