"""Turn a trained image-to-image network into a small, verified student."""

__version__ = "0.1.0"
