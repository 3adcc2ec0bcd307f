"""Whatever precision the trainer has set, by torch's older or newer switches, networks see none of it and leave it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SETTINGS = [
    "pass",
    "torch.set_float32_matmul_precision('medium')",
    "torch.backends.cuda.matmul.allow_tf32 = True",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "torch.backends.fp32_precision = 'tf32'",
]
CODE = """
import torch
from lightning_imgmetrics._precision import _switches, full_precision
{setting}
before = [switch.fp32_precision for switch in _switches()]
x = torch.randn(8, 8)
with torch.autocast("cpu", torch.bfloat16), full_precision(torch.device("cpu")):
    assert {{switch.fp32_precision for switch in _switches()}} <= {{"ieee"}}
    assert (x @ x).dtype == torch.float32
assert [switch.fp32_precision for switch in _switches()] == before
"""


@pytest.mark.parametrize("setting", SETTINGS)
def test_full_precision(setting: str) -> None:
    """In a process of its own, as torch keeps which switches were used."""
    subprocess.run([sys.executable, "-W", "error", "-c", CODE.format(setting=setting)], check=True)
