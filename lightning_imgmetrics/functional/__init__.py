"""Numerical methods as pure functions, and torchmetrics' functionals for images by their names.

The modules of this folder hold pure functions, tensors in, tensors out. This facade offers them, and the metrics of one
batch above them, `clip_score`, `structural_similarity_index_measure` and so on; both are loaded when they are used.
"""

from lightning_imgmetrics._lazy import attach

__getattr__, __dir__, __all__ = attach(__name__, __file__)
