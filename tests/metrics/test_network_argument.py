"""Every metric with a network takes it as `network`; torchmetrics' own names for it stay valid beside it."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import pytest
from torch import Tensor, nn

from lightning_imgmetrics import (
    AttributeBalance,
    CLIPImageQualityAssessment,
    CLIPScore,
    FrechetInceptionDistance,
    InceptionScore,
    KernelInceptionDistance,
    LearnedPerceptualImagePatchSimilarity,
    LPIPSDiversity,
    MemorizationInformedFrechetInceptionDistance,
)
from lightning_imgmetrics.models.base.custom import CustomExtractor
from lightning_imgmetrics.registry import METRICS, metric

OTHER_NAMES = {"clip_score": "model_name_or_path", "clip_iqa": "model_name_or_path"}
OTHER_NAMES |= dict.fromkeys(("lpips", "lpips_diversity"), "net_type")


class Mean(nn.Module):
    num_features = 3

    def forward(self, x: Tensor) -> Tensor:
        return x.float().mean((2, 3))


@pytest.mark.parametrize(("key", "name"), OTHER_NAMES.items())
def test_both_names_mean_the_same_network_and_only_one_of_them_is_given(key: str, name: str) -> None:
    assert metric(key, network="digits-clip").signature() == metric(key, **{name: "digits-clip"}).signature()
    message = f"`network` and `{name}` mean the same: give one of them, got 'digits-clip' and 'digits-clip'"
    with pytest.raises(TypeError, match=message):
        metric(key, network="digits-clip", **{name: "digits-clip"})


def test_a_network_by_position_is_that_of_torchmetrics() -> None:
    for made in (CLIPScore, CLIPImageQualityAssessment, LearnedPerceptualImagePatchSimilarity, LPIPSDiversity):
        assert made("digits-clip").signature() == made(network="digits-clip").signature()


def test_no_key_names_its_network_in_a_word_of_its_own() -> None:
    names = {"model", "net", "checkpoint", "backbone", "model_name_or_path", "net_type", "feature"}
    for key, maker in METRICS.items():
        kind: Any = maker.func if isinstance(maker, partial) else maker
        taken = set(inspect.signature(kind).parameters)
        assert "network" in taken or not taken & names, key
        assert not taken & {"model", "net", "checkpoint", "backbone"}, key


@pytest.mark.parametrize("made", [FrechetInceptionDistance, InceptionScore, KernelInceptionDistance])
def test_the_network_of_metrics_on_inception(made: Any) -> None:
    module = Mean()
    for chosen in (made(module), made(network=module), made(network=CustomExtractor(module))):
        assert isinstance(chosen.extractor, CustomExtractor)
        assert chosen.signature() == made(module).signature()
    assert made(64, network="inception").signature() == made(64).signature()
    for feature, network in ((module, module), (module, "inception"), (64, module), (64, "digits-clip")):
        with pytest.raises(TypeError, match="`network` and `feature` both name the features"):
            made(feature, network=network)


def test_names_of_networks_where_a_metric_is_not_defined_on_inception() -> None:
    for made in (KernelInceptionDistance, MemorizationInformedFrechetInceptionDistance):
        assert made(network="digits-clip").signature().fields["network"] == "digits-clip"
    for made in (FrechetInceptionDistance, InceptionScore):
        with pytest.raises(ValueError, match=r"`network` must be 'inception', a module or an Extractor for .*'dinov2'"):
            made(network="dinov2")


def test_labels_come_from_one_network() -> None:
    with pytest.raises(TypeError, match="`network` or `classifier` gives the labels, got both: 'digits-clip' and 'x'"):
        AttributeBalance(["a", "b"], network="digits-clip", classifier="x")
