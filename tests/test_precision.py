"""Networks run in the declared precision, whatever the trainer has set by torch's older or newer flags."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from conftest import random_images

from lightning_imgmetrics import LearnedPerceptualImagePatchSimilarity, PickScore
from lightning_imgmetrics.models.base.network import NETWORKS
from lightning_imgmetrics.models.encoders.lpips import LpipsExtractor

SETTINGS = [
    "pass",
    "torch.set_float32_matmul_precision('medium')",
    "torch.backends.cuda.matmul.allow_tf32 = True",
    "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "torch.backends.cudnn.conv.fp32_precision = 'tf32'",
    "torch.backends.fp32_precision = 'tf32'",
]
CODE = """
import os, sys, torch
from lightning_imgmetrics._precision import full_precision, ieee_backends

def check(setting):
    exec(setting)
    before = [backend.fp32_precision for backend in ieee_backends()]
    x = torch.randn(8, 8)
    with torch.autocast("cpu", torch.bfloat16), full_precision(torch.device("cpu")):
        assert {backend.fp32_precision for backend in ieee_backends()} <= {"ieee"}
        assert (x @ x).dtype == torch.float32
    assert [backend.fp32_precision for backend in ieee_backends()] == before

for setting in sys.argv[1:]:
    if not (child := os.fork()):
        try:
            check(setting)
        except BaseException as error:
            os.write(2, f"{setting}: {error!r}".encode())
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, setting
"""


def test_full_precision() -> None:
    """Each setting in a process of its own, as torch remembers which flags were used; forked, to import torch once."""
    subprocess.run([sys.executable, "-W", "error", "-c", CODE, *SETTINGS], check=True)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_networks_ignore_the_default_dtype_of_the_trainer(dtype: torch.dtype) -> None:
    """`precision="bf16-true"` and "64-true" set it around `validation_step`, where a metric may load its network."""
    images = random_images(4, 40)

    def value() -> tuple[float, ...]:
        clip, lpips = PickScore("digits-clip"), LearnedPerceptualImagePatchSimilarity("digits-clip")
        clip.update(images=images, prompts="a handwritten one")
        lpips.update(images[:2], images[2:])
        return float(clip.compute()), float(lpips.compute())

    NETWORKS.clear()
    expected = value()
    NETWORKS.clear()
    torch.set_default_dtype(dtype)
    try:
        actual = value()
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    assert actual == pytest.approx(expected, rel=1e-6)
    assert value() == pytest.approx(expected, rel=1e-6)  # the networks loaded meanwhile are right for later uses


def test_buffers_of_networks_are_float32(lpips_weights: dict[str, str]) -> None:
    torch.set_default_dtype(torch.bfloat16)
    try:
        network = LpipsExtractor(net="alex", weights=lpips_weights["alex"]).network(torch.device("cpu"))
    finally:
        torch.set_default_dtype(torch.float32)
    NETWORKS.clear()
    assert {x.dtype for x in network.state_dict().values()} == {torch.float32}
