"""torchmetrics' functionals for images: the same names, arguments and values, without weights."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchmetrics.functional
from conftest import random_images
from torch import Tensor
from torchmetrics.functional import image, multimodal

from lightning_imgmetrics import (
    CLIPImageQualityAssessment,
    CLIPScore,
    LearnedPerceptualImagePatchSimilarity,
    functional,
)
from lightning_imgmetrics.metrics import functional_api

THEIRS = {name: getattr(m, name) for m in (torchmetrics.functional, image, multimodal) for name in m.__all__}
NAMES = [name for name, f in vars(functional_api).items() if getattr(f, "__module__", "") == functional_api.__name__]
NAMES = [name for name in NAMES if not name.startswith("_")]
PATHS = sorted(Path(functional_api.__file__).parents[1].glob("functional/*.py"))
# torchmetrics has functions of these names with other arguments
ELSEWHERE = {"cohen_kappa", "kl_divergence", "total_variation"}


def pair(side: int = 48) -> tuple[Tensor, Tensor]:
    return random_images(3, side, 1).double() / 255, random_images(3, side, 2).double() / 255


@pytest.mark.parametrize("name", NAMES)
def test_arguments_are_those_of_torchmetrics(name: str) -> None:
    ours, theirs = (inspect.signature(f).parameters.values() for f in (getattr(functional, name), THEIRS[name]))
    assert [(p.name, p.default, p.kind) for p in ours] == [(p.name, p.default, p.kind) for p in theirs]


def test_the_facade_offers_what_is_documented() -> None:
    """Every pure function that has an example, and by torchmetrics' names only its functions."""
    trees = {path.stem: ast.parse(path.read_text()).body for path in PATHS}
    functions = [node for nodes in trees.values() for node in nodes if isinstance(node, ast.FunctionDef)]
    documented = {f.name for f in functions if ">>>" in (ast.get_docstring(f) or "")}
    assert documented - ELSEWHERE <= set(dir(functional))
    assert set(dir(functional)) >= {*NAMES, *trees} - {"__init__"}
    assert {name for name in dir(functional) if name in THEIRS} == set(NAMES)


CASES: dict[str, tuple[str, Callable[[], tuple[Tensor, Tensor]], dict[str, Any]]] = {
    "psnr": ("peak_signal_noise_ratio", pair, {"data_range": 1.0}),
    "psnr of each image": (
        "peak_signal_noise_ratio",
        pair,
        {"data_range": (0.1, 0.9), "dim": (1, 2, 3), "reduction": "none", "base": 2.0},
    ),
    "ssim": ("structural_similarity_index_measure", pair, {"data_range": 1.0}),
    "ssim, uniform": (
        "structural_similarity_index_measure",
        pair,
        {"data_range": 2.0, "gaussian_kernel": False, "kernel_size": 7, "reduction": "sum", "k1": 0.02},
    ),
    "ssim with maps": ("structural_similarity_index_measure", pair, {"data_range": 1.0, "return_full_image": True}),
    "ssim with contrast": (
        "structural_similarity_index_measure",
        pair,
        {"data_range": 1.0, "return_contrast_sensitivity": True, "sigma": 0.8},
    ),
    "ms_ssim": (
        "multiscale_structural_similarity_index_measure",
        pair,
        {"data_range": 1.0, "sigma": 0.5, "kernel_size": 3, "betas": (0.4, 0.6), "normalize": "simple"},
    ),
    "vif": ("visual_information_fidelity", lambda: tuple(255 * x for x in pair()), {"reduction": "none"}),
}


@pytest.mark.parametrize("case", CASES)
def test_values_are_those_of_torchmetrics(case: str) -> None:
    name, batch, options = CASES[case]
    ours, theirs = (f(*batch(), **options) for f in (getattr(functional, name), THEIRS[name]))
    assert isinstance(ours, tuple) is isinstance(theirs, tuple)
    for x, y in zip(*(v if isinstance(v, tuple) else (v,) for v in (ours, theirs)), strict=True):
        torch.testing.assert_close(x, y, rtol=2e-5, atol=1e-6, check_dtype=False)


def test_networks_give_the_value_of_the_class() -> None:
    preds, target = pair(32)
    for name, metric, options in (
        ("clip_score", CLIPScore("digits-clip"), ("digits-clip",)),
        (
            "learned_perceptual_image_patch_similarity",
            LearnedPerceptualImagePatchSimilarity("digits-clip", "none", True),
            ("digits-clip", "none", True),
        ),
    ):
        metric.update(preds, target)
        assert torch.equal(getattr(functional, name)(preds, target, *options), metric.compute())
    prompts = (("zero", "one"), ("six", "nine"))
    metric = CLIPImageQualityAssessment("digits-clip", prompts=prompts, data_range=255.0)
    metric.update(255 * preds)
    values = functional.clip_image_quality_assessment(255 * preds, "digits-clip", 255.0, prompts)
    assert list(values) == ["user_defined_0", "user_defined_1"]
    assert all(torch.equal(values[k], x) for k, x in metric.compute().items())


def test_gradients_are_refused_rather_than_lost() -> None:
    preds, target = pair()
    preds.requires_grad_()
    with pytest.raises(ValueError, match=r"`preds` requires a gradient.*`lightning_imgmetrics.functional.ssim`"):
        functional.structural_similarity_index_measure(preds, target)
    with torch.no_grad():
        value = functional.structural_similarity_index_measure(preds, target)
    loss = functional.ssim(preds, target).mean()
    loss.backward()
    assert preds.grad.abs().sum() > 0
    assert value.item() == pytest.approx(loss.item(), rel=1e-6)
