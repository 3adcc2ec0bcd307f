"""Numerical precision, set explicitly instead of inherited from the trainer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32, no gradients, no inference tensors, float32 as the default dtype."""
    with (
        default_float32(),
        torch.inference_mode(False),
        torch.no_grad(),
        torch.autocast(device.type, enabled=False),
        ExitStack() as stack,
    ):
        for backend in ieee_backends():
            stack.callback(setattr, backend, "fp32_precision", backend.fp32_precision)
            backend.fp32_precision = "ieee"
        if not ieee_backends():
            stack.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            stack.callback(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
            torch.set_float32_matmul_precision("highest")
            torch.backends.cudnn.allow_tf32 = False
        yield


@contextmanager
def default_float32() -> Iterator[None]:
    """float32 as the default dtype, which Lightning's `precision="bf16-true"` and "64-true" change."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def ieee_backends() -> list[Any]:
    """The backends with a `fp32_precision` (torch since 2.9), which cannot be mixed with the older flags; or none."""
    if not hasattr(torch.backends, "fp32_precision"):
        return []
    cudnn: Any = torch.backends.cudnn
    mkldnn: Any = torch.backends.mkldnn
    return [torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
