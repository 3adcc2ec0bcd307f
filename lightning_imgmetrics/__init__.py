"""Streaming, distributed, citable image metrics for PyTorch Lightning."""

from lightning_imgmetrics._lazy import attach
from lightning_imgmetrics._version import __version__ as __version__

__getattr__, __dir__, __all__ = attach(__name__, __file__)
