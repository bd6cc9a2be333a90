"""LongAlign, reproducible: packing, sorted batching and loss weighting for long-context SFT (arXiv 2401.18058)."""

__version__ = "0.2.0"
