"""Precision is declared here, never inherited from the trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32, no gradient, no inference tensors."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(
                enabled=True,
                allow_tf32=False,
                deterministic=torch.backends.cudnn.deterministic,
                benchmark=torch.backends.cudnn.benchmark,
            ),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(before)
