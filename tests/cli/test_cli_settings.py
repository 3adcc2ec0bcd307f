"""`--set`: exactly what a constructor takes is offered, and texts become values by its annotations."""

from __future__ import annotations

import inspect
import tempfile
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
from helpers import judge_cases
from helpers.classifiers import save_classifier

from lightning_imgmetrics.cli.build import build, expand
from lightning_imgmetrics.cli.request import MetricSpec, UsageError
from lightning_imgmetrics.cli.settings import arguments, offered, parse_settings
from lightning_imgmetrics.errors import UnknownName
from lightning_imgmetrics.judges.backends.server import ServerJudge
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.models.encoders.clip import ClipExtractor
from lightning_imgmetrics.models.encoders.dinov2 import Dinov2Extractor
from lightning_imgmetrics.models.encoders.inception import InceptionExtractor
from lightning_imgmetrics.registry import METRICS, metric_class


@pytest.fixture(autouse=True)
def _small_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that states are small, and no checkpoint need say how wide its features are."""
    for kind in (InceptionExtractor, ClipExtractor, Dinov2Extractor):
        monkeypatch.setattr(kind, "dim", lambda self, layer: 8)


@cache
def checkpoint() -> str:
    return save_classifier(Path(tempfile.mkdtemp()), ["normal", "nsfw"])


def required(key: str) -> dict[str, Any]:
    """Arguments with which a key's metric can be made on a machine without weights."""
    if key in judge_cases.JUDGED:
        made = judge_cases.JUDGED[key][1]()
        return {**made, "judge": ServerJudge("m", "http://localhost/v1")} if "judge" in made else made
    if key in ("safety_rate", "artifact_rate"):
        return {"network": checkpoint(), "labels": "nsfw"}
    if key == "lpips_diversity":
        return {"network": "digits-clip"}
    return {"labels": ["one", "two"]} if key == "attribute_balance" else {}


def parameters_of_all_constructors(key: str) -> dict[str, inspect.Parameter]:
    constructors = [c.__init__ for c in metric_class(key).__mro__ if issubclass(c, ImageMetric)]
    parameters = [p for init in constructors for p in inspect.signature(init).parameters.values()]
    return {p.name: p for p in reversed(parameters) if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


@pytest.mark.parametrize("key", METRICS)
def test_every_argument_that_is_offered_can_be_given_and_no_other(key: str) -> None:
    given = required(key)
    METRICS[key](**given)
    for name, parameter in arguments(key).items():
        default = given.get(name) if parameter.default is inspect.Parameter.empty else parameter.default
        METRICS[key](**{name: default, **given})
    for name in parameters_of_all_constructors(key).keys() - {*arguments(key), "self"}:
        with pytest.raises((TypeError, ValueError), match=r"argument|must be"):
            METRICS[key](**given, **{name: object()})


def test_what_the_table_binds_is_not_offered() -> None:
    for key, maker in METRICS.items():
        if isinstance(maker, partial):
            bound = list(inspect.signature(maker.func).parameters)[: len(maker.args)]
            assert not {*bound} & {*arguments(key)}, key
    assert {"layer", "transform", "extra"}.isdisjoint(offered("kid"))
    assert {"feature", "groups", "protocol", "network", "feature_extractor_weights_path"} <= set(
        offered("fid_infinity")
    )
    assert {"decoding", "calibration"} <= {*arguments("rubric")} - {*offered("rubric")}


def test_network_is_offered_wherever_there_is_a_choice() -> None:
    without = {
        "sfid",
        "fd_dinov2",
        "fd_clip",
        "clip_fid",
        "fd_digits_clip",
        "imagereward",
        "hpsv3",
        "dists",
        "win_rate",
    }
    without |= {"mse", "psnr", "ssim", "ms_ssim", "vif", "blank_rate", *expand(["photometry"])}
    without |= {key for key in METRICS if "judge" in arguments(key)} | {"geneval"}
    assert {key for key in METRICS if "network" not in offered(key)} == without


TYPED = [
    ("psnr.data_range=(0,1)", (0.0, 1.0)),
    ("psnr.data_range=0, 1", (0.0, 1.0)),
    ("psnr.data_range=2", 2.0),
    ("psnr.data_range=none", None),
    ("psnr.value_range=(-1, 1)", (-1.0, 1.0)),
    ("psnr.dim=1,2,3", [1, 2, 3]),
    ("psnr.dim=None", None),
    ("ms_ssim.betas=0.5,0.5", (0.5, 0.5)),
    ("ssim.kernel_size=7", 7),
    ("ssim.kernel_size=[7, 5]", [7, 5]),
    ("fid.feature=64", 64),
    ("fid.input_img_size=3,32,32", (3, 32, 32)),
    ("kid.feature=logits_unbiased", "logits_unbiased"),
    ("kid.feature=64", 64),
    ("kid.normalize=yes", True),
    ("kid.normalize=false", False),
    ("kid.normalize=1", True),
    ("kid.coef=2", 2.0),
    ("kid.gamma=1e-3", 1e-3),
    ("kid.max_samples=none", None),
    ("clip_score.revision=123", "123"),
    ("clip_iqa.prompts=quality", ["quality"]),
    ("clip_iqa.prompts=quality,sharpness", ["quality", "sharpness"]),
    ("clip_iqa.prompts=('a good', 'a bad'), 'quality'", [["a good", "a bad"], "quality"]),
    ("safety_rate.labels=nsfw,2", ["nsfw", 2]),
    ("safety_rate.labels=2", 2),
    ("attribute_balance.target=0.25,0.75", [0.25, 0.75]),
    ("attribute_balance.target={'a': 0.25, 'b': 0.75}", {"a": 0.25, "b": 0.75}),
    ("unified_reward.template=a, b.py", "a, b.py"),
    ("vqa_score.thinking=true", True),
]


@pytest.mark.parametrize(("setting", "value"), TYPED)
def test_texts_become_values_of_the_annotated_type(setting: str, value: Any) -> None:
    key, _, argument = setting.partition("=")[0].partition(".")
    read = parse_settings([setting], [key])[key][argument]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("psnr.data_range=x", "float or (float, float) or none, got 'x'"),
        ("psnr.data_range=(0,1,2)", "float or (float, float) or none, got '(0,1,2)'"),
        ("kid.subset_size=1e3", "int, got '1e3'"),
        ("kid.subset_size=1.5", "int, got '1.5'"),
        ("kid.normalize=maybe", "bool, got 'maybe'"),
        ("kid.gamma=true", "float or none, got 'true'"),
        ("ms_ssim.betas=0.5,half", "a list of float, got '0.5,half'"),
        ("attribute_balance.target=0.5,half", "{name: value, ...} or a list of float or none, got '0.5,half'"),
    ],
)
def test_what_is_of_another_type_is_refused_by_name(setting: str, expected: str) -> None:
    name = setting.partition("=")[0]
    with pytest.raises(UsageError) as error:
        parse_settings([setting], [name.partition(".")[0]])
    assert str(error.value) == f"--set {name} must be {expected}"


def test_names_that_cannot_be_set() -> None:
    with pytest.raises(UsageError, match=r"--set vie_score.decoding must be given in Python: it is no plain value"):
        parse_settings(["vie_score.decoding=greedy"], ["vie_score"])
    with pytest.raises(UnknownName, match=r"`--set fid.` must be one of 'feature', .*; got 'layer'"):
        parse_settings(["fid.layer=64"], ["fid"])


def test_a_preset_sets_all_of_its_metrics() -> None:
    keys = expand(["prdc"])
    assert parse_settings(["prdc.nearest_k=2"], keys) == {key: {"nearest_k": 2} for key in keys}


def test_one_network_for_all_metrics() -> None:
    spec = MetricSpec(metrics=("kid", "clip_score", "lpips", "vendi"), network="digits-clip")
    networks = {m.extractor.card.name for m in build(spec, command="evaluate").values() if m.extractor is not None}
    assert networks == {"digits-clip"}
