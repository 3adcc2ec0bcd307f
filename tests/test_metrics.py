"""What every metric does, looped over the table: a well-behaved torchmetrics.Metric in float64."""

from __future__ import annotations

import functools
import json
import pickle
import random
import tempfile
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import scipy.stats
import torch
from conftest import TinyNet, random_images
from helpers import judge_cases
from helpers.classifiers import save_classifier
from helpers.judges import ScriptedJudge, chance, texts_of
from torch import Tensor, nn
from torchmetrics import MetricCollection

import lightning_imgmetrics
from lightning_imgmetrics import (
    METRICS,
    AestheticScore,
    AttributeBalance,
    Authenticity,
    BioCLIPScore,
    ClassifierRate,
    CLIPMaximumMeanDiscrepancy,
    CLIPScore,
    DensityCoverage,
    FeatureLikelihoodDivergence,
    FrechetDistance,
    FrechetInceptionDistance,
    FrechetInceptionDistanceInfinity,
    HPSv2,
    InceptionScore,
    IntraFrechetInceptionDistance,
    KernelInceptionDistance,
    LearnedPerceptualImagePatchSimilarity,
    LPIPSDiversity,
    MemorizationInformedFrechetInceptionDistance,
    MetricSuite,
    PerPrompt,
    PickScore,
    PrecisionRecall,
    ReconstructionFrechetDistance,
    Result,
    SafetyRate,
    SigLIPScore,
    SpatialFrechetInceptionDistance,
    VendiScore,
    VQAScore,
    WinRate,
    clip_score,
)
from lightning_imgmetrics.errors import (
    DuplicateSamples,
    IncompatibleStates,
    NonFiniteFeatures,
    NotEnoughSamples,
    ShapeError,
    SignatureMismatch,
    UnknownName,
)
from lightning_imgmetrics.functional.resampling import jackknife
from lightning_imgmetrics.judges.metrics.verdict_metric import VerdictMetric
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.models.base.custom import CustomExtractor
from lightning_imgmetrics.models.base.extractor import PixelExtractor
from lightning_imgmetrics.models.detection.mask2former import DetectorExtractor
from lightning_imgmetrics.models.encoders.clip import ClipExtractor
from lightning_imgmetrics.models.scorers.classifier import ClassifierExtractor
from lightning_imgmetrics.result import Signature
from lightning_imgmetrics.states.hash import uniform_hash

mpl.use("Agg")
# Published wordings are not on this machine.
pytestmark = pytest.mark.filterwarnings("ignore:the prompt (viescore|unified-reward|qwen-image-bench)-:UserWarning")
DIGITS = str(Path(lightning_imgmetrics.__file__).parent / "models/digits_clip/model.safetensors")
N = 12
WORDS = ["zero", "one", "two"]


class Counting(TinyNet):
    """Counts its passes."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        return super().forward(x)


class Maps(nn.Module):
    """Two layers of feature maps; counts its passes."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> list[Tensor]:
        type(self).calls += 1
        first = self.conv(x).relu()
        return [first, nn.functional.max_pool2d(first, 2)]


class Spatial(SpatialFrechetInceptionDistance):
    """sFID of a small network."""

    def __init__(self, **kwargs: Any) -> None:
        FrechetDistance.__init__(self, Counting(), **kwargs)


@functools.cache
def pool(seed: int) -> Tensor:
    return random_images(10 * N, 16, seed)


def images(rows: Iterable[int], seed: int) -> Tensor:
    return pool(seed)[torch.tensor(list(rows))]


def generated(rows: Iterable[int]) -> tuple[Any, ...]:
    return images(rows, 1), False


def labelled(rows: Iterable[int]) -> tuple[Any, ...]:
    return images(rows, 1), False, torch.tensor(list(rows)) % 2


def one_set(rows: Iterable[int]) -> tuple[Any, ...]:
    return (images(rows, 0),)


def mixed(rows: Iterable[int]) -> tuple[Any, ...]:
    """Every third image is black."""
    return (images(rows, 0) * torch.tensor([row % 3 > 0 for row in rows], dtype=torch.uint8)[:, None, None, None],)


def pairs(rows: Iterable[int]) -> tuple[Any, ...]:
    return images(rows, 0), images(rows, 1)


def large_pairs(rows: Iterable[int]) -> tuple[Any, ...]:
    """VIF needs sides of 41 pixels."""
    return tuple(x.repeat(1, 1, 3, 3) for x in pairs(rows))


@functools.cache
def head() -> str:
    """The head of an aesthetic predictor in the layout of LAION's first."""
    path = Path(tempfile.mkdtemp()) / "head.pth"
    torch.save({"weight": torch.linspace(-1, 1, 32)[None], "bias": torch.tensor([5.0])}, path)
    return str(path)


@functools.cache
def classifier() -> str:
    return save_classifier(Path(tempfile.mkdtemp()), ["normal", "nsfw"])


def prompted(rows: range) -> dict[str, Any]:
    return {"images": images(rows, 0), "prompts": words(rows)}


def words(rows: range) -> list[str]:
    return [WORDS[i % 3] for i in rows]


def votes(rows: range) -> tuple[Tensor, Tensor, Tensor]:
    i = torch.tensor(list(rows))
    return i % 2, (i + 1) % 3 + 2 * (i % 2 == 0), torch.tensor([0.0, 0.5, 1.0, 0.0, 1.0])[i % 5]


# key -> (makes it without weights, arguments of `update` that add some rows)
Arguments = tuple[Any, ...] | dict[str, Any]
Case = tuple[Callable[..., ImageMetric], Callable[[range], Arguments]]
CASES: dict[str, Case] = {
    "fid": (
        lambda **kw: FrechetInceptionDistance(Counting(), **kw),
        generated,
    ),
    "sfid": (Spatial, generated),
    "fid_infinity": (lambda **kw: FrechetInceptionDistanceInfinity(Counting(), groups=16, **kw), generated),
    "intra_fid": (lambda **kw: IntraFrechetInceptionDistance(Counting(), **kw), labelled),
    "mifid": (lambda **kw: MemorizationInformedFrechetInceptionDistance(Counting(), **kw), generated),
    "fd_digits_clip": (METRICS["fd_digits_clip"], generated),
    "kid": (lambda **kw: KernelInceptionDistance(Counting(), subsets=3, subset_size=4, **kw), generated),
    "cmmd": (lambda **kw: CLIPMaximumMeanDiscrepancy("digits-clip", **kw), generated),
    "inception_score": (lambda **kw: InceptionScore(Counting(), splits=2, **kw), lambda rows: (images(rows, 1),)),
    "precision": (lambda **kw: PrecisionRecall("precision", Counting(), **kw), generated),
    "recall": (lambda **kw: PrecisionRecall("recall", Counting(), **kw), generated),
    "density": (lambda **kw: DensityCoverage("density", Counting(), nearest_k=2, **kw), generated),
    "coverage": (lambda **kw: DensityCoverage("coverage", Counting(), nearest_k=2, **kw), generated),
    "authenticity": (lambda **kw: Authenticity(Counting(), **kw), generated),
    "vendi": (lambda **kw: VendiScore(Counting(), **kw), lambda rows: (images(rows, 1),)),
    "fld": (lambda **kw: FeatureLikelihoodDivergence(Counting(), **kw), generated),
    "clip_score": (lambda **kw: CLIPScore("digits-clip", **kw), lambda rows: (images(rows, 0), words(rows))),
    "siglip_score": (lambda **kw: SigLIPScore("digits-clip", **kw), prompted),
    "bioclip_score": (lambda **kw: BioCLIPScore("digits-clip", **kw), prompted),
    "pickscore": (lambda **kw: PickScore("digits-clip", **kw), prompted),
    "hpsv2": (lambda **kw: HPSv2(network="digits-clip", weights=DIGITS, **kw), prompted),
    "sharpness": (METRICS["sharpness"], one_set),
    "noise": (METRICS["noise"], one_set),
    "exposure": (METRICS["exposure"], one_set),
    "saturation": (METRICS["saturation"], one_set),
    "contrast": (METRICS["contrast"], one_set),
    "colorfulness": (METRICS["colorfulness"], one_set),
    "lpips": (
        lambda **kw: LearnedPerceptualImagePatchSimilarity(Maps(), **kw),
        lambda rows: (images(rows, 0), images(rows, 1)),
    ),
    "aesthetic": (lambda **kw: AestheticScore("v1", network="digits-clip", head=head(), **kw), one_set),
    "clip_iqa": (lambda **kw: METRICS["clip_iqa"]("digits-clip", prompts=(("a one", "a two"),), **kw), one_set),
    "blank_rate": (METRICS["blank_rate"], mixed),
    "safety_rate": (lambda **kw: SafetyRate(classifier(), "nsfw", **kw), mixed),
    "artifact_rate": (lambda **kw: ClassifierRate(classifier(), "nsfw", **kw), mixed),
    "attribute_balance": (lambda **kw: AttributeBalance(["one", "two", "six"], network="digits-clip", **kw), prompted),
    "mse": (METRICS["mse"], pairs),
    "psnr": (METRICS["psnr"], pairs),
    "ssim": (METRICS["ssim"], pairs),
    "ms_ssim": (lambda **kw: METRICS["ms_ssim"](kernel_size=3, sigma=0.5, betas=(0.4, 0.6), **kw), pairs),
    "vif": (METRICS["vif"], large_pairs),
    "rfid": (lambda **kw: ReconstructionFrechetDistance(Counting(), **kw), pairs),
    "lpips_diversity": (
        lambda **kw: LPIPSDiversity(Maps(), image_size=16, **kw),
        lambda rows: (images(rows, 0), words(rows)),
    ),
    "win_rate": (lambda **kw: WinRate(1, **kw), votes),
}
CASES |= {case: (partial(judge_cases.make, case), partial(judge_cases.given, case)) for case in judge_cases.JUDGED}
CASES |= {
    "pickscore (per prompt)": (lambda **kw: PerPrompt(PickScore("digits-clip"), **kw), prompted),
    "clip_score (sums)": (lambda **kw: CLIPScore("digits-clip", keep_scores=False, **kw), CASES["clip_score"][1]),
    "lpips (none)": (
        lambda **kw: LearnedPerceptualImagePatchSimilarity(Maps(), "none", **kw),
        CASES["lpips"][1],
    ),
    "lpips (sum)": (lambda **kw: LearnedPerceptualImagePatchSimilarity(Maps(), "sum", **kw), CASES["lpips"][1]),
    "fid (interval)": (lambda **kw: FrechetInceptionDistance(Counting(), groups=2, **kw), generated),
    "cmmd (moments)": (lambda **kw: CLIPMaximumMeanDiscrepancy("digits-clip", streaming=True, **kw), generated),
    "kid (bounded)": (
        lambda **kw: KernelInceptionDistance(Counting(), subsets=3, subset_size=4, max_samples=8, bank="float16", **kw),
        generated,
    ),
}
EVERY = pytest.mark.parametrize("key", CASES)
JUDGED = pytest.mark.parametrize("key", judge_cases.JUDGED)
# One of each base, and those whose `compute` returns more than a scalar.
PLOTTED = (
    "fid",
    "kid",
    "inception_score",
    "precision",
    "clip_score",
    "pickscore (per prompt)",
    "lpips_diversity",
    "ssim",
)
PLOTTED += ("clip_iqa", "blank_rate", "win_rate", "vqa_score", "tifa", "geneval")
ONE_SET = ("inception_score", "vendi")
TWO_SETS = tuple(key for key, (_, rows) in CASES.items() if rows in (generated, labelled))
SETS = pytest.mark.parametrize("key", TWO_SETS)
PAIRS = ("kid", "kid (bounded)", "inception_score")  # compute returns (mean, standard deviation)
TIMES = {"fid_infinity": 10, "fld": 10, "fid (interval)": 10}  # those that need more than N samples
BOUND = {"kid (bounded)": 8}


def spread(key: str, rows: Iterable[int]) -> list[int]:
    """The rows of the images of a key, that are TIMES as many."""
    k = TIMES.get(key, 1)
    return [k * row + i for row in rows for i in range(k)]


def arguments(key: str, rows: Iterable[int]) -> Arguments:
    return CASES[key][1](spread(key, rows))


def put(method: Callable[..., Any], given: Arguments, **kwargs: Any) -> Any:
    """Call with positional arguments, or with keywords where the metric takes no others."""
    return method(**{**given, **kwargs}) if isinstance(given, dict) else method(*given, **kwargs)


def refer(metric: ImageMetric, key: str, rows: Iterable[int] = range(N), **kwargs: Any) -> ImageMetric:
    """Add reference images, if the metric takes them."""
    if key in TWO_SETS:
        _, _, *labels = arguments(key, rows)
        metric.update(images(spread(key, rows), 0), True, *labels, **kwargs)
    return metric


def make(key: str, **kwargs: Any) -> ImageMetric:
    """The metric with its reference, if it takes one."""
    return refer(CASES[key][0](**kwargs), key)


def feed(metric: ImageMetric, key: str, rows: Iterable[int] = range(N), **kwargs: Any) -> ImageMetric:
    put(metric.update, arguments(key, rows), **kwargs)
    return metric


def uses_network(metric: ImageMetric) -> bool:
    return isinstance(metric.extractor, DetectorExtractor) or not isinstance(metric.extractor, PixelExtractor | None)


def questions(metric: ImageMetric) -> int:
    """How many its judge was asked, if it has one."""
    judge = getattr(metric, "judge", None)
    return len(judge.asked) if isinstance(judge, ScriptedJudge) else 0


def tensor(computed: Any) -> Tensor:
    """What compute or forward returned as one tensor."""
    return torch.stack(computed) if isinstance(computed, tuple) else computed


def computed(metric: ImageMetric) -> Tensor:
    return tensor(metric.compute())


@functools.cache
def value(key: str) -> Tensor:
    """What a metric computes of all its samples, which most tests compare with."""
    return computed(feed(make(key), key))


def close(left: Any, right: Any) -> None:
    """Equal to what float32 networks leave of other batches."""
    torch.testing.assert_close(tensor(left), tensor(right), rtol=1e-5, atol=1e-7, equal_nan=True)


def test_every_key_of_the_table_is_tested() -> None:
    # as fd_digits_clip with weights that must be downloaded; with tests of their own, on checkpoints of their layout
    untested = {"fd_clip", "clip_fid", "fd_dinov2", "dists", "imagereward", "hpsv3"}
    assert set(METRICS) - untested == {key for key in CASES if "(" not in key}


@EVERY
def test_values_are_float64_and_finite(key: str) -> None:
    found = value(key)
    assert found.dtype == torch.float64
    assert found.isfinite().all()
    assert found.shape == ((N,) if key == "lpips (none)" else (2,) if key in PAIRS else ())


@EVERY
def test_batches_do_not_matter(key: str) -> None:
    metric = make(key)
    for rows in (range(5), range(5, 6), range(6, N)):
        feed(metric, key, rows)
    close(metric.compute(), value(key))


@EVERY
def test_compute_is_repeatable_and_updates_go_on(key: str) -> None:
    metric = feed(make(key), key, range(6))
    assert torch.equal(computed(metric), computed(metric))
    metric.result()
    close(feed(metric, key, range(6, N)).compute(), value(key))


@EVERY
def test_pickle(key: str) -> None:
    metric = make(key)
    feed(metric, key, range(6))
    metric.compute()
    again = pickle.loads(pickle.dumps(metric))
    assert torch.equal(computed(again), computed(metric))
    assert again.signature() == metric.signature()
    close(feed(again, key, range(6, N)).compute(), value(key))


@EVERY
def test_clone_shares_the_network(key: str) -> None:
    metric = feed(make(key), key, range(6))
    clone = metric.clone()
    assert clone.extractor is metric.extractor
    feed(clone, key, range(6, N))
    close(clone.compute(), value(key))
    assert metric.result().n < clone.result().n or key in BOUND
    assert key in COUNTS or not torch.equal(computed(metric), computed(clone))


@EVERY
def test_reset(key: str) -> None:
    metric = feed(make(key), key, range(6))
    metric.compute()
    metric.reset()
    refer(metric, key)
    assert torch.equal(computed(feed(metric, key)), value(key))


@EVERY
def test_forward_is_update_and_compute(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = make(key)
    passes = []
    networks = (
        (ClassifierExtractor, "run"),
        (ClipExtractor, "run"),
        (CustomExtractor, "run"),
        (DetectorExtractor, "detect"),
    )
    for extractor, name in networks:
        run = getattr(extractor, name)
        monkeypatch.setattr(extractor, name, lambda *args, run=run: passes.append(1) or run(*args))
    before = Counting.calls + Maps.calls
    step = put(metric, arguments(key, range(6)))
    assert len(passes) == int(uses_network(metric))  # one pass of the network, not one more for the step
    assert Counting.calls + Maps.calls - before in (0, 1)
    alone = feed(make(key), key, range(6))
    assert questions(metric) == questions(alone)
    close(step, alone.compute())
    rest = put(metric, arguments(key, range(6, N)))
    if key not in (*TWO_SETS, *ONE_SET, "rfid"):  # theirs is the value so far: a batch has no covariance worth the name
        close(rest, feed(make(key), key, range(6, N)).compute())
    close(metric.compute(), value(key))
    if isinstance(metric, VerdictMetric):
        assert metric.records() == feed(feed(make(key), key, range(6)), key, range(6, N)).records()


def test_a_batch_that_no_judge_answers_about_has_no_value() -> None:
    """It is no error of the step, and what came before is not lost."""
    metric = VQAScore(ScriptedJudge(lambda q: None if "six" in texts_of(q) else chance(q)), max_failed=0.4)
    given = prompted(range(5))
    steps = [metric(**{name: x[i : i + 1] for name, x in given.items()}).item() for i in range(4)]
    assert metric(images=given["images"][4:], prompts="six").isnan()
    result = metric.result()
    assert result.value == pytest.approx(np.mean(steps))
    assert (result.n, result.details["n_failed"]) == (4, 1)
    assert [record["score"] for record in metric.records()] == [*steps, None]


@EVERY
def test_merge_state(key: str) -> None:
    for with_ids in (True, False) if key not in DRAWN else (True,):  # without ids, shards number theirs alike
        whole = feed(make(key), key, **ids_of(key, range(N), with_ids))
        for as_dict in (True, False):
            shards = [make(key), CASES[key][0]()]
            for shard, rows in zip(shards, (range(5), range(5, N)), strict=True):
                feed(shard, key, rows, **ids_of(key, rows, with_ids))
            shards[0].merge_state(shards[1].metric_state if as_dict else shards[1])
            close(computed(shards[0]).sort()[0], computed(whole).sort()[0])
            assert shards[0].result().n == whole.result().n
            if key in judge_cases.JUDGED:
                assert shards[0].result().details == pytest.approx(whole.result().details, rel=1e-9)


@JUDGED
def test_samples_in_any_order_and_twice(key: str) -> None:
    """What a judge was asked about hangs on the sample, not on when it came."""
    result = feed(make(key), key, ids=range(N)).result()
    metric = make(key)
    for rows in ([7, 3, 11, 0], [5, 7, 10, 9, 8, 1], [6, 2, 0, 4]):
        feed(metric, key, rows, ids=rows)
    again = metric.result()
    assert (again.n, again.signature) == (result.n, result.signature)
    assert again.value == pytest.approx(result.value, rel=1e-12)
    assert again.details == pytest.approx(result.details, rel=1e-9)


@JUDGED
def test_a_suite_of_judges_is_saved_and_merged(key: str, tmp_path: Path) -> None:
    alone = feed(make(key), key, ids=range(N))
    shards = [MetricSuite({key: make(key)}) for _ in range(2)]
    for shard, rows in zip(shards, (range(7), range(5, N)), strict=True):
        put(shard.update, arguments(key, rows), ids=rows)
    shards[0].save(tmp_path / "shard")
    again = MetricSuite({key: make(key)})
    again.load(tmp_path / "shard")
    assert again.results() == shards[0].results()
    again.merge(shards[1])
    shards[1].merge(tmp_path / "shard")
    for suite in (again, shards[1]):
        (result,) = suite.results().values()
        assert (result.n, result.signature) == (alone.result().n, alone.result().signature)
        assert result.details == pytest.approx(alone.result().details, rel=1e-9)


@EVERY
def test_collections(key: str) -> None:
    collection = MetricCollection({"first": make(key), "second": make(key)})
    for rows in (range(6), range(6, N)):
        put(collection.update, arguments(key, rows))
    assert len(collection.compute_groups) == 2
    for metric in collection.values():
        close(metric.compute(), value(key))


def ids_of(key: str, rows: Iterable[int], wanted: bool) -> dict[str, Any]:
    return {"ids": spread(key, rows)} if wanted else {}


@EVERY
def test_merge_of_an_empty_metric_changes_nothing(key: str) -> None:
    metric = feed(make(key), key)
    metric.merge_state(CASES[key][0]())
    assert torch.equal(computed(metric), value(key))


def test_merge_of_unlike_metrics_is_refused() -> None:
    with pytest.raises(SignatureMismatch, match="contestant: 0 against 1"):
        WinRate(0).merge_state(WinRate(1))


@EVERY
@pytest.mark.parametrize("first", [True, False])
def test_inference_mode(key: str, first: bool) -> None:
    """As Lightning's validation and training alternate: update, compute and reset in and out of it."""
    metric, expected = make(key), value(key)
    for _ in range(2):
        with torch.inference_mode(first):
            feed(metric, key, range(6))
        with torch.inference_mode(not first):
            feed(metric, key, range(6, N))
        with torch.inference_mode(first):
            close(metric.compute(), expected)
            metric.reset()
        with torch.inference_mode(first):
            refer(metric, key)
    with torch.inference_mode():
        close(put(metric, arguments(key, range(N))), expected)
    states = list(metric.metric_state.values())
    tensors = [t for s in states for t in (s if isinstance(s, list) else [s])]
    assert not any(t.is_inference() or t.requires_grad for t in tensors)


@EVERY
def test_a_metric_may_be_made_in_inference_mode(key: str) -> None:
    """As a functional call in a `validation_step` does."""
    with torch.inference_mode():
        metric = feed(make(key), key, range(6))
    close(feed(metric, key, range(6, N)).compute(), value(key))


def test_the_function_works_in_inference_mode() -> None:
    arguments = CASES["clip_score"][1](range(N))
    with torch.inference_mode():
        inside = clip_score(*arguments, "digits-clip")
    assert torch.equal(inside, value("clip_score"))


@EVERY
def test_nothing_enters_a_checkpoint_or_an_optimizer(key: str) -> None:
    module = nn.Module()
    module.metric = feed(make(key), key)
    module.metric.compute()
    assert module.state_dict() == {}
    assert list(module.parameters()) == []
    assert list(module.buffers()) == []
    assert list(module.metric.children()) == []


@EVERY
def test_random_streams_are_left_alone(key: str) -> None:
    def streams() -> tuple[Any, ...]:
        numpy = np.random.get_state()
        return torch.get_rng_state().tolist(), random.getstate(), numpy[1].tolist(), numpy[2]

    before = streams()
    metric = feed(make(key), key)
    metric.compute()
    put(metric, arguments(key, range(N)))
    metric.reset()
    metric.clone()
    assert streams() == before


@EVERY
def test_values_do_not_depend_on_the_seed(key: str) -> None:
    for seed in (1, 2):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            assert torch.equal(computed(feed(make(key), key)), value(key))


@EVERY
def test_autocast_does_not_change_the_value(key: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        metric = feed(make(key), key)
        inside = computed(metric)
    assert torch.equal(inside, value(key))


@EVERY
def test_states_never_change_their_dtype(key: str) -> None:
    metric = make(key)

    def convert() -> None:
        metric.set_dtype(torch.float16)
        metric.half()
        metric.to(torch.bfloat16)
        metric.to("cpu", torch.float16)
        nn.ModuleList([metric]).half()

    convert()
    feed(metric, key, range(6))
    convert()
    close(feed(metric, key, range(6, N)).compute(), value(key))


@pytest.mark.parametrize("key", PLOTTED)
def test_plot(key: str) -> None:
    from matplotlib import pyplot

    metric = feed(make(key), key)
    result = metric.result()
    found = metric.compute()
    for val in (None, found, result, [found, found], [result, result]):
        figure, axes = metric.plot(val)
        drawn = [y for line in axes.get_lines() for y in np.atleast_1d(line.get_ydata())]
        assert any(y == pytest.approx(result.value, rel=1e-6) for y in drawn)
        pyplot.close(figure)


# Results


@EVERY
def test_results_cite_what_was_measured(key: str) -> None:
    metric = feed(make(key), key)
    result = metric.result()
    assert result.name == metric.name == METRICS_NAME.get(key, key.split(" ")[0])
    assert 0 < result.n <= N * TIMES.get(key, 1)
    found = metric.compute()
    assert result.value == pytest.approx(float((found[0] if key in PAIRS else found).mean()))
    assert result.higher_is_better is metric.higher_is_better
    assert result.signature.startswith(f"metric:{result.name}|")
    assert "version:" in result.signature
    assert result.details["n_clamped"] == 0
    assert Result.from_json(result.to_json()) == result
    json.loads(result.to_json(), parse_constant=pytest.fail)  # NaN is not JSON


METRICS_NAME = {
    "fd_digits_clip": "frechet_distance",
    "artifact_rate": "classifier_rate",
    "pickscore (per prompt)": "pickscore_per_prompt",
}
# They may agree on some samples and on more.
COUNTS = ("precision", "recall", "density", "coverage", "authenticity", "blank_rate", "safety_rate", "artifact_rate")
COUNTS += ("pairwise_judge",)
DRAWN = ("fid_infinity", "kid", "kid (bounded)", "inception_score", "fld")  # parts are drawn by id


def test_standard_error_and_interval_of_a_mean() -> None:
    metric = feed(make("clip_score"), "clip_score")
    scores = metric.scores()[1].numpy()
    result = metric.result()
    assert result.value == pytest.approx(scores.mean())
    assert result.details["standard_error"] == pytest.approx(scipy.stats.sem(scores))
    interval = scipy.stats.t.interval(0.95, N - 1, loc=scores.mean(), scale=scipy.stats.sem(scores))
    assert result.interval == pytest.approx(interval)
    assert result.details["median"] == pytest.approx(np.median(scores))
    assert result.details["p05"] == pytest.approx(np.quantile(scores, 0.05))


def test_one_sample_has_no_interval() -> None:
    result = feed(make("clip_score"), "clip_score", range(1)).result()
    assert result.interval is None
    assert "standard_error" not in result.details


def test_diversity_counts_prompts_not_images() -> None:
    """The error is over the prompts, which are independent, not over the images of one."""
    metric = feed(make("lpips_diversity"), "lpips_diversity")
    per_prompt = []
    for i in range(3):
        one = CASES["lpips_diversity"][0]()
        rows = torch.arange(i, N, 3)
        one.update(images(rows, 0), [WORDS[i]] * len(rows))
        per_prompt.append(one.compute().item())
    result = metric.result()
    assert result.value == pytest.approx(np.mean(per_prompt), rel=1e-6)
    assert result.details["standard_error"] == pytest.approx(scipy.stats.sem(per_prompt), rel=1e-5)
    interval = scipy.stats.t.interval(0.95, 2, loc=np.mean(per_prompt), scale=scipy.stats.sem(per_prompt))
    assert result.interval == pytest.approx(interval, rel=1e-5)
    assert result.details["n_prompts"] == 3


def test_win_rate_is_the_share_of_wins() -> None:
    metric = WinRate(7)
    metric.update(torch.tensor([7, 7, 3, 3, 1]), torch.tensor([1, 2, 7, 7, 2]), torch.tensor([1, 0.5, 0, 1, 1]))
    outcomes = [1, 0.5, 1, 0]  # against 1, 2, 3, 3; the comparison without 7 does not count
    result = metric.result()
    assert result.value == pytest.approx(np.mean(outcomes))
    assert result.n == 4
    assert result.details["standard_error"] == pytest.approx(scipy.stats.sem(outcomes))


def test_extreme_samples_are_named() -> None:
    metric = make("clip_score")
    feed(metric, "clip_score", range(6), ids=range(100, 106))
    ids, scores = metric.scores()
    details = metric.result().details
    assert ids.tolist() == list(range(100, 106))
    assert details["lowest_id"] == ids[scores.argmin()]
    assert details["highest_id"] == ids[scores.argmax()]


@pytest.mark.parametrize("key", ["clip_score", "lpips"])
def test_scores_need_not_be_kept(key: str) -> None:
    kept, dropped = (feed(make(key, keep_scores=keep), key) for keep in (True, False))
    torch.testing.assert_close(dropped.compute(), kept.compute(), rtol=1e-12, atol=0)
    assert dropped.result().interval == pytest.approx(kept.result().interval)
    assert dropped.streams["score"].content.value.numel() == 3
    with pytest.raises(ValueError, match="keep_scores=True"):
        dropped.scores()


# Sample ids


@EVERY
def test_a_sample_counts_once(key: str) -> None:
    """Within a batch, between batches, and against what was merged in."""
    metric, once = CASES[key][0](), CASES[key][0]()
    for rows in (range(N), range(4)):
        refer(metric, key, rows, ids=spread(key, rows))
    for rows in ([*range(6), 3, 3, 0], range(4, N), range(2)):
        feed(metric, key, rows, ids=spread(key, rows))
    feed(refer(once, key, ids=spread(key, range(N))), key, ids=spread(key, range(N)))
    close(computed(metric).sort()[0], computed(once).sort()[0])
    assert metric.result().n == once.result().n


@EVERY
def test_ids_may_be_lists_or_tensors(key: str) -> None:
    rows = spread(key, range(N))
    first = computed(feed(make(key), key, ids=rows))
    for ids in (torch.tensor(rows), torch.tensor(rows, dtype=torch.int32), np.array(rows)):
        assert torch.equal(computed(feed(make(key), key, ids=ids)), first)
    if key not in DRAWN:
        close(first, value(key))


@pytest.mark.parametrize("key", [key for key in CASES if key not in judge_cases.NUMBERED])
def test_without_ids_nothing_is_dropped(key: str) -> None:
    metric = feed(feed(make(key), key), key)
    assert metric.result().n == BOUND.get(key, 2 * value_count(key))


def value_count(key: str) -> int:
    return feed(make(key), key).result().n


def test_sums_that_share_settled_samples_are_refused() -> None:
    first, second = (feed(make("fid"), "fid", range(N), ids=range(N)) for _ in range(2))
    for metric in (first, second):
        feed(metric, "fid", range(2), ids=[N, N + 1])  # all but the newest sample are in the sums now
    first.merge_state(second)
    with pytest.raises(DuplicateSamples, match=f"{N + 1} samples"):
        first.compute()


# Two sets


def counts(metric: ImageMetric) -> dict[str, str]:
    return {k: v for k, v in Signature.parse(metric.result().signature).fields.items() if k.startswith("n")}


@SETS
def test_a_kept_reference_survives_reset(key: str) -> None:
    metric = make(key, reset_real_features=False)
    before = computed(feed(metric, key))
    expected = counts(metric)
    metric.reset()
    assert counts(feed(metric, key)) == expected
    assert torch.equal(computed(metric), before)
    metric.reset()
    with pytest.raises(NotEnoughSamples):
        metric.compute()


@SETS
@pytest.mark.parametrize("keep", [True, False])
def test_forward_does_not_double_the_reference(key: str, keep: bool) -> None:
    metric = CASES[key][0](reset_real_features=not keep)
    _, _, *labels = arguments(key, range(N))
    with_nan = metric(images(spread(key, range(N)), 0), True, *labels)
    assert isinstance(with_nan, tuple) is (key in PAIRS)
    assert tensor(with_nan).isnan().all()  # one set alone
    step = put(metric, arguments(key, range(N)))
    close(step, value(key))
    assert counts(metric) == counts(feed(make(key), key))
    close(metric.compute(), value(key))


def test_the_sums_of_torchmetrics_are_there() -> None:
    metric = feed(make("fid"), "fid")
    features = TinyNet()(images(range(N), 1)).double().detach()
    assert metric.fake_features_num_samples == N
    assert metric.fake_features_num_samples.dtype == torch.int64
    torch.testing.assert_close(metric.fake_features_sum, features.sum(0))
    torch.testing.assert_close(metric.fake_features_cov_sum, features.T @ features)
    assert metric.real_features_cov_sum.shape == (8, 8)


@pytest.mark.parametrize(
    "key",
    [
        *("fd_digits_clip", "cmmd", "precision", "clip_score", "pickscore", "sharpness", "lpips_diversity", "lpips"),
        *judge_cases.JUDGED,
    ],
)
def test_value_range(key: str) -> None:
    """Images declared in [-1, 1] are the same images in [0, 1]."""
    values = []
    for low in (0.0, -1.0):
        metric = CASES[key][0](value_range=(low, 1.0))

        def convert(x: Any, low: float = low) -> Any:
            if isinstance(x, list):
                return [convert(part, low) for part in x]
            return x.float() / 255 * (1 - low) + low if isinstance(x, Tensor) else x

        if key in TWO_SETS:
            metric.update(convert(images(range(N), 0)), True)
        given = arguments(key, range(N))
        put(
            metric.update,
            {k: convert(x) for k, x in given.items()} if isinstance(given, dict) else (*map(convert, given),),
        )
        values.append(metric.compute())
    close(values[1], values[0])


@EVERY
def test_networks_are_frozen_and_keep_their_mode(key: str) -> None:
    metric = make(key)
    if key == "win_rate":
        assert metric.extractor is None
        return
    network = metric.extractor.network(metric.device)
    for mode in (True, False):
        if metric.extractor.card.source == "user":
            network.train(mode)
            feed(metric, key)
            assert all(module.training is mode for module in network.modules())
        else:
            metric.train(mode)
            feed(metric, key)
            assert not any(module.training for module in network.modules())
            assert not any(p.requires_grad for p in network.parameters())


def test_gradients_do_not_flow() -> None:
    x = torch.rand(4, 3, 16, 16, requires_grad=True)
    metric = make("lpips", normalize=True)
    metric.update(x, x.detach().flip(0))
    assert not metric.compute().requires_grad


def test_compute_before_update_warns_and_fails() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RuntimeError, match="needs 1"):
            CLIPScore("digits-clip").compute()


def test_unknown_arguments_are_refused() -> None:
    for key in CASES:
        with pytest.raises((ValueError, TypeError), match="nexpected keyword"):
            CASES[key][0](no_such_argument=1)


# What the distribution metrics say of themselves


def test_intervals_of_a_frechet_distance() -> None:
    """The jackknife's estimate, error and replicates of the groups that the hashed ids make."""
    metric = feed(make("fid (interval)"), "fid (interval)")
    result = metric.result()
    part = (uniform_hash(-1 - torch.arange(10 * N), 1) * 2).long()
    without = []
    for group in range(2):
        rest = refer(FrechetInceptionDistance(Counting()), "fid (interval)")
        rest.update(images((part != group).nonzero()[:, 0].tolist(), 1), False)
        without.append(rest.compute().item())
    assert result.replicates == pytest.approx(without, rel=1e-4)
    leave_out = torch.tensor(result.replicates, dtype=torch.float64)
    estimate, error = jackknife(result.value, leave_out, sizes=part.bincount())
    assert result.details["bias_corrected"] == pytest.approx(estimate)
    assert result.details["standard_error"] == pytest.approx(error)
    half = scipy.stats.t.ppf(0.975, 1) * error
    assert result.interval == pytest.approx((estimate - half, estimate + half))
    whole = feed(refer(FrechetInceptionDistance(Counting()), "fid (interval)"), "fid (interval)")
    assert result.value == pytest.approx(whole.compute().item(), rel=1e-6)


def test_details() -> None:
    """What goes with a value, under one name in all metrics of a kind."""
    found = {key: feed(make(key), key).result() for key in TWO_SETS + ONE_SET}
    assert found["precision"].details["recall"] == found["recall"].value
    assert found["recall"].details["precision"] == found["precision"].value
    assert found["density"].details["coverage"] == found["coverage"].value
    assert found["mifid"].details["fid"] == pytest.approx(value("fid").item(), rel=1e-6)
    assert found["fid_infinity"].details["fid"] > found["fid_infinity"].value
    assert {"class_0", "class_1"} < set(found["intra_fid"].details)
    assert found["kid"].details["subset_std"] == pytest.approx(value("kid")[1].item())
    assert found["inception_score"].details["split_std"] == pytest.approx(value("inception_score")[1].item())
    assert "test:held-out" in found["fld"].signature
    gap = abs(found["cmmd"].value - found["cmmd (moments)"].value)
    assert gap <= CLIPMaximumMeanDiscrepancy("digits-clip").truncation_bound


def test_intra_fid_is_the_mean_over_classes() -> None:
    metric = feed(make("intra_fid", class_names=["even", "odd"]), "intra_fid")
    values = []
    for label in range(2):
        one = FrechetInceptionDistance(Counting())
        one.update(images(range(label, N, 2), 0), True)
        one.update(images(range(label, N, 2), 1), False)
        values.append(one.compute().item())
    result = metric.result()
    assert result.value == pytest.approx(np.mean(values), rel=1e-5)
    assert [result.details[name] for name in ("even", "odd")] == pytest.approx(values, rel=1e-5)
    assert "classes:2" in result.signature


def test_one_split_has_no_deviation() -> None:
    metric = InceptionScore(Counting(), splits=1)
    metric.update(images(range(N), 1))
    mean, deviation = metric.compute()
    assert mean.isfinite()
    assert deviation.isnan()
    assert "split_std" not in metric.result().details
    json.loads(metric.result().to_json(), parse_constant=pytest.fail)


def test_held_out_images_of_fld() -> None:
    """Given, they are the test set and all of the reference trains; in inference mode too."""
    metric = make("fld")
    with torch.inference_mode():
        metric.update_test(images(range(10 * N), 2), ids=range(10 * N))
    feed(metric, "fld")
    result = metric.result()
    assert f"n_train:{10 * N}|n_test:{10 * N}|n:{10 * N}|test:given" in result.signature
    assert not any(part.is_inference() for part in metric.streams["real_test"].content.value)
    before = metric.compute()
    metric.update_test(images(range(20), 3), ids=range(1000, 1020))
    assert metric.compute() != before


def test_neighbors_are_named() -> None:
    """A copy of a reference image is found, with both ids."""
    metric = Authenticity(Counting())
    metric.update(images(range(N), 0), True, ids=range(100, 100 + N))
    metric.update(torch.cat([images(range(4), 1), images([7], 0)]), False, ids=[0, 1, 2, 3, 4])
    ids, reference_ids, distances = metric.neighbors(2)
    assert ids[0] == 4
    assert reference_ids[0, 0] == 107
    assert distances[0, 0] < 1e-6 < distances[0, 1]
    assert (distances[1:, 0] >= distances[:-1, 0]).all()


def test_realism_is_above_one_within_the_balls() -> None:
    metric = feed(make("precision"), "precision", ids=range(N))
    ids, scores = metric.realism()
    assert sorted(ids.tolist()) == list(range(N))
    assert (scores >= 1).double().mean() <= metric.compute()  # it leaves out half of the balls


def test_a_bounded_bank_is_bounded() -> None:
    metric = PrecisionRecall("precision", Counting(), max_samples=20)
    for start in range(0, 3000, 100):
        metric.update_features({"features": torch.rand(100, 8)}, real=True, ids=range(start, start + 100))
        assert sum(map(len, metric.streams["real_bank"].content.value)) <= 2 * 256 + 100
    assert len(metric.features("real")) == 20


# Bad input

Make = Callable[[], Any]
REFUSED: dict[str, tuple[Make, type[Exception], str]] = {
    "groups": (lambda: FrechetDistance(Counting(), groups=1), ValueError, "`groups` must be 0 .* or at least 2, got 1"),
    "negative groups": (lambda: FrechetDistance(Counting(), groups=-2), ValueError, "got -2"),
    "few groups": (
        lambda: FrechetInceptionDistanceInfinity(Counting(), groups=15),
        ValueError,
        "`groups` must be at least 16 for 15 sizes, got 15",
    ),
    "bank": (
        lambda: PrecisionRecall("recall", Counting(), bank="int8"),
        UnknownName,
        "`bank` must be one of 'float16', 'float32', 'float64'; got 'int8'",
    ),
    "max_samples": (lambda: Authenticity(Counting(), max_samples=0), ValueError, "`max_samples` must be None or at"),
    "nearest_k": (lambda: DensityCoverage("density", Counting(), nearest_k=0), ValueError, "at least 1, got 0"),
    "report": (lambda: PrecisionRecall("density", Counting()), UnknownName, "`report` must be one of 'precision', 're"),
    "subsets": (lambda: KernelInceptionDistance(Counting(), subsets=0), ValueError, "Argument `subsets` expected"),
    "subset_size": (lambda: KernelInceptionDistance(Counting(), subset_size=-3), ValueError, "Argument `subset_size`"),
    "degree": (lambda: KernelInceptionDistance(Counting(), degree=0), ValueError, "Argument `degree` expected"),
    "gamma": (lambda: KernelInceptionDistance(Counting(), gamma=-1.0), ValueError, "Argument `gamma` expected"),
    "coef": (lambda: KernelInceptionDistance(Counting(), coef=-1.0), ValueError, "Argument `coef` expected"),
    "kid's layer": (
        lambda: KernelInceptionDistance(100),
        ValueError,
        "must be one of .*'logits_unbiased', 64.*t 100",
    ),
    "splits": (lambda: InceptionScore(Counting(), splits=0), ValueError, "Argument `splits` expected"),
    "order": (lambda: VendiScore(Counting(), order=0), ValueError, "`order` must be above 0, got 0"),
    "test_share": (lambda: FeatureLikelihoodDivergence(Counting(), test_share=1.0), ValueError, "between 0 and 1"),
    "eps": (
        lambda: MemorizationInformedFrechetInceptionDistance(Counting(), cosine_distance_eps=1.5),
        ValueError,
        "`cosine_distance_eps`",
    ),
    "orientation": (
        lambda: MemorizationInformedFrechetInceptionDistance(Counting(), orientation="theirs"),
        UnknownName,
        "`orientation` must be one of 'torchmetrics', 'paper'; got 'theirs'",
    ),
    "protocol": (lambda: SpatialFrechetInceptionDistance(protocol="edm"), UnknownName, "'clean-fid', 'adm'; got 'edm'"),
    "network": (lambda: VendiScore(3), TypeError, "`network` must be a name, a module"),
    "a bank of moments": (
        lambda: CLIPMaximumMeanDiscrepancy(Counting(), streaming=True, max_samples=5),
        ValueError,
        "nexpected keyword",
    ),
    "no real": (lambda: Authenticity(Counting()).update(images(range(N), 0), real=2), ValueError, "got 2"),
    "labels": (lambda: labels([0] * 3), ShapeError, r"`labels` must be 12 integers, one per image, got \(3,\)"),
    "float labels": (lambda: labels(torch.zeros(N)), ShapeError, "torch.float32"),
    "boolean labels": (lambda: labels([True] * N), ShapeError, "torch.bool"),
    "texts": (lambda: labels(["a"] * N), ShapeError, "`labels` must be 12 integers"),
    "negative labels": (lambda: labels([-1] * N), ValueError, r"must lie in \[0, 2\), got -1..-1"),
    "large labels": (lambda: labels([0, 2] * 6), ValueError, r"must lie in \[0, 2\), got 0..2"),
}


def labels(given: Any) -> None:
    IntraFrechetInceptionDistance(Counting(), class_names=["a", "b"]).update(images(range(N), 0), True, given)


@pytest.mark.parametrize("case", REFUSED)
def test_arguments_that_make_no_sense(case: str) -> None:
    make, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("key", "kwargs", "rows", "message"),
    [
        ("kid", {}, 3, "kid has 3 samples and needs 4: Argument `subset_size` should be smaller"),
        ("precision", {}, 3, r"precision has 3 samples and needs 4: .*3 nearest neighbors \(`nearest_k`\)"),
        ("coverage", {}, 2, "coverage has 2 samples and needs 3"),
        ("fid", {}, 1, "12 real and 1 generated"),
        ("mifid", {}, 1, "mifid has 1 samples and needs 2"),
        ("intra_fid", {"class_names": ["cat", "dog"]}, 2, "of cat there are 6 real and 1 generated images"),
        ("fid_infinity", {}, 1, "one for each of 16 groups"),
        ("fid (interval)", {}, 0, "needs 2: 120 real and 0 generated"),
        ("cmmd", {}, 0, "cmmd has 0 samples and needs 1"),
        ("cmmd (moments)", {}, 0, "12 real and 0 generated"),
        ("inception_score", {}, 0, "needs 1: call `update` first"),
        ("vendi", {}, 0, "needs 1: call `update` first"),
        ("fld", {}, 0, "fld has 0 samples and needs 4"),
    ],
)
def test_too_few_samples(key: str, kwargs: dict[str, Any], rows: int, message: str) -> None:
    metric = make(key, **kwargs)
    if rows:
        feed(metric, key, range(rows))
    with pytest.raises(NotEnoughSamples, match=message):
        metric.compute()
    close(computed(feed(metric, key, range(rows, N))), value(key))


@SETS
def test_features_that_are_no_numbers(key: str) -> None:
    """A network on an accelerator is not waited for: NaN shows when the state is read."""
    metric = make(key)
    d = metric.extractor.dim(metric.layers[0])
    inputs = {"labels": torch.arange(10 * N) % 2} if key == "intra_fid" else {}
    features = torch.rand(10 * N, d)
    features[:, 0] = torch.nan
    metric.update_features({metric.layers[0]: features}, real=False, **inputs)
    with pytest.raises(NonFiniteFeatures, match="NaN or infinity"):
        metric.compute()


@pytest.mark.parametrize("other", ["fid", "fid (interval)"])
def test_states_of_another_kind_are_not_merged(other: str) -> None:
    keys = ["fid", "fid (interval)"]
    mine = feed(make(next(key for key in keys if key != other)), other)
    with pytest.raises(IncompatibleStates, match=r"fid: this metric keeps .*Moments.*, the other one"):
        mine.merge_state(feed(make(other), other))


def test_metrics_in_a_suite_are_not_merged_alone() -> None:
    suite = MetricSuite({"fid": FrechetInceptionDistance(Counting())})
    other = FrechetInceptionDistance(Counting())
    suite["fid"].merge_state(refer(other, "fid"))  # it shares nothing
    assert suite["fid"].real_features_num_samples == N
