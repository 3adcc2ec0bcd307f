"""What every metric does, looped over the table: a well-behaved torchmetrics.Metric in float64."""

from __future__ import annotations

import json
import pickle
import random
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
import scipy.stats
import torch
from conftest import TinyNet, random_images
from torch import Tensor, nn

from lightning_imgmetrics import (
    METRICS,
    CLIPScore,
    FrechetInceptionDistance,
    LearnedPerceptualImagePatchSimilarity,
    LPIPSDiversity,
    Result,
    WinRate,
    clip_score,
)
from lightning_imgmetrics.errors import DuplicateSamples, SignatureMismatch
from lightning_imgmetrics.metrics.stateful import ImageMetric
from lightning_imgmetrics.models.base import CustomExtractor
from lightning_imgmetrics.models.clip import ClipExtractor

mpl.use("Agg")
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


def images(rows: range | Tensor, seed: int) -> Tensor:
    return random_images(N, 16, seed)[torch.as_tensor(list(rows))]


def words(rows: range) -> list[str]:
    return [WORDS[i % 3] for i in rows]


def votes(rows: range) -> tuple[Tensor, Tensor, Tensor]:
    i = torch.tensor(list(rows))
    return i % 2, (i + 1) % 3 + 2 * (i % 2 == 0), torch.tensor([0.0, 0.5, 1.0, 0.0, 1.0])[i % 5]


# key -> (makes it without weights, arguments of `update` that add some rows)
Case = tuple[Callable[..., ImageMetric], Callable[[range], tuple[Any, ...]]]
CASES: dict[str, Case] = {
    "fid": (
        lambda **kw: FrechetInceptionDistance(Counting(), **kw),
        lambda rows: (images(rows, 1), False),
    ),
    "fd_digits_clip": (METRICS["fd_digits_clip"], lambda rows: (images(rows, 1), False)),
    "clip_score": (lambda **kw: CLIPScore("digits-clip", **kw), lambda rows: (images(rows, 0), words(rows))),
    "lpips": (
        lambda **kw: LearnedPerceptualImagePatchSimilarity(Maps(), **kw),
        lambda rows: (images(rows, 0), images(rows, 1)),
    ),
    "lpips_diversity": (
        lambda **kw: LPIPSDiversity(Maps(), image_size=16, **kw),
        lambda rows: (images(rows, 0), words(rows)),
    ),
    "win_rate": (lambda **kw: WinRate(1, **kw), votes),
}
CASES |= {
    "clip_score (sums)": (lambda **kw: CLIPScore("digits-clip", keep_scores=False, **kw), CASES["clip_score"][1]),
    "lpips (none)": (
        lambda **kw: LearnedPerceptualImagePatchSimilarity(Maps(), "none", **kw),
        CASES["lpips"][1],
    ),
    "lpips (sum)": (lambda **kw: LearnedPerceptualImagePatchSimilarity(Maps(), "sum", **kw), CASES["lpips"][1]),
}
EVERY = pytest.mark.parametrize("key", CASES)
SCALAR = pytest.mark.parametrize("key", [key for key in CASES if key != "lpips (none)"])
TWO_SETS = ("fid", "fd_digits_clip")


def make(key: str, **kwargs: Any) -> ImageMetric:
    """The metric with its reference, if it takes one."""
    metric = CASES[key][0](**kwargs)
    if key in TWO_SETS:
        metric.update(images(range(N), 0), True)
    return metric


def feed(metric: ImageMetric, key: str, rows: range = range(N), **kwargs: Any) -> ImageMetric:
    metric.update(*CASES[key][1](rows), **kwargs)
    return metric


def value(key: str) -> Tensor:
    return feed(make(key), key).compute()


def close(left: Tensor, right: Tensor) -> None:
    """Equal to what float32 networks leave of other batches."""
    torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-8)


def test_every_key_of_the_table_is_tested() -> None:
    untested = {"fd_clip"}  # as fd_digits_clip, with weights that must be downloaded
    assert set(METRICS) - untested == {key for key in CASES if "(" not in key}


@EVERY
def test_values_are_float64_and_finite(key: str) -> None:
    found = value(key)
    assert found.dtype == torch.float64
    assert found.isfinite().all()
    assert found.shape == ((N,) if key == "lpips (none)" else ())


@EVERY
def test_batches_do_not_matter(key: str) -> None:
    metric = make(key)
    for rows in (range(5), range(5, 6), range(6, N)):
        feed(metric, key, rows)
    close(metric.compute(), value(key))


@EVERY
def test_compute_is_repeatable_and_updates_go_on(key: str) -> None:
    metric = feed(make(key), key, range(6))
    assert torch.equal(metric.compute(), metric.compute())
    metric.result()
    close(feed(metric, key, range(6, N)).compute(), value(key))


@EVERY
def test_pickle(key: str) -> None:
    metric = make(key)
    feed(metric, key, range(6))
    metric.compute()
    again = pickle.loads(pickle.dumps(metric))
    assert torch.equal(again.compute(), metric.compute())
    assert again.signature() == metric.signature()
    close(feed(again, key, range(6, N)).compute(), value(key))


@EVERY
def test_clone_shares_the_network(key: str) -> None:
    metric = feed(make(key), key, range(6))
    clone = metric.clone()
    assert clone.extractor is metric.extractor
    feed(clone, key, range(6, N))
    close(clone.compute(), value(key))
    assert not torch.equal(metric.compute(), clone.compute())


@EVERY
def test_reset(key: str) -> None:
    metric = feed(make(key), key, range(6))
    metric.compute()
    metric.reset()
    if key in TWO_SETS:
        metric.update(images(range(N), 0), True)
    assert torch.equal(feed(metric, key).compute(), value(key))


@EVERY
def test_forward_is_update_and_compute(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = make(key)
    passes = []
    for extractor in (ClipExtractor, CustomExtractor):
        run = extractor.run
        monkeypatch.setattr(extractor, "run", lambda *args, run=run: passes.append(1) or run(*args))
    before = Counting.calls + Maps.calls
    step = metric(*CASES[key][1](range(6)))
    assert len(passes) == (0 if key == "win_rate" else 1)  # one pass of the network, not one more for the step
    assert Counting.calls + Maps.calls - before in (0, 1)
    close(step, feed(make(key), key, range(6)).compute())
    rest = metric(*CASES[key][1](range(6, N)))
    if key not in TWO_SETS:  # theirs is the value so far: one batch of features has no covariance worth the name
        close(rest, feed(make(key), key, range(6, N)).compute())
    close(metric.compute(), value(key))


@EVERY
def test_merge_state(key: str) -> None:
    first, second = feed(make(key), key, range(5)), feed(CASES[key][0](), key, range(5, N))
    first.merge_state(second)
    close(first.compute().sort()[0], value(key).sort()[0])
    again = feed(make(key), key, range(5))
    incoming = feed(CASES[key][0](), key, range(5, N))
    again.merge_state(incoming.metric_state)
    close(again.compute().sort()[0], value(key).sort()[0])


@EVERY
def test_merge_of_an_empty_metric_changes_nothing(key: str) -> None:
    metric = feed(make(key), key)
    metric.merge_state(CASES[key][0]())
    assert torch.equal(metric.compute(), value(key))


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
        if key in TWO_SETS:
            with torch.inference_mode(first):
                metric.update(images(range(N), 0), True)
    with torch.inference_mode():
        close(metric(*CASES[key][1](range(N))), expected)
    states = [getattr(metric, name) for name in metric._defaults]
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
    metric(*CASES[key][1](range(N)))
    metric.reset()
    metric.clone()
    assert streams() == before


@EVERY
def test_values_do_not_depend_on_the_seed(key: str) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        first = value(key)
        torch.manual_seed(2)
        assert torch.equal(value(key), first)


@EVERY
def test_autocast_does_not_change_the_value(key: str) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        metric = feed(make(key), key)
        inside = metric.compute()
    assert torch.equal(inside, value(key))


@EVERY
@pytest.mark.parametrize(
    "convert",
    [
        lambda m: m.set_dtype(torch.float16),
        lambda m: m.half(),
        lambda m: m.to(torch.bfloat16),
        lambda m: m.to("cpu", torch.float16),
        lambda m: nn.ModuleList([m]).half(),
    ],
    ids=["set_dtype", "half", "to", "to-device", "module"],
)
def test_states_never_change_their_dtype(key: str, convert: Callable[[Any], Any]) -> None:
    metric = make(key)
    convert(metric)
    feed(metric, key, range(6))
    convert(metric)
    close(feed(metric, key, range(6, N)).compute(), value(key))


@SCALAR
def test_plot(key: str) -> None:
    from matplotlib import pyplot

    metric = feed(make(key), key)
    result = metric.result()
    for val in (None, metric.compute(), result, [metric.compute(), metric.compute() + 0.1], [result, result]):
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
    assert 0 < result.n <= N
    assert result.value == pytest.approx(metric.compute().mean().item())
    assert result.higher_is_better is metric.higher_is_better
    assert result.signature.startswith(f"metric:{result.name}|")
    assert "version:" in result.signature
    assert result.details["n_clamped"] == 0
    assert Result.from_json(result.to_json()) == result
    json.loads(result.to_json(), parse_constant=pytest.fail)  # NaN is not JSON


METRICS_NAME = {"fd_digits_clip": "frechet_distance"}


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
    assert sum(getattr(dropped, name).numel() for name in dropped._streams) == 3
    with pytest.raises(ValueError, match="keep_scores=True"):
        dropped.scores()


# Sample ids


@EVERY
def test_a_sample_counts_once(key: str) -> None:
    """Within a batch, between batches, and against what was merged in."""
    metric = CASES[key][0]()
    if key in TWO_SETS:
        metric.update(images(range(N), 0), True, ids=range(N))
        metric.update(images(range(4), 0), True, ids=range(4))
    rows = [*range(6), 3, 3, 0]
    feed(metric, key, rows, ids=rows)
    feed(metric, key, range(4, N), ids=range(4, N))
    feed(metric, key, range(2), ids=range(2))
    found = metric.compute()
    close(found.sort()[0], value(key).sort()[0])


@EVERY
def test_ids_may_be_lists_or_tensors(key: str) -> None:
    for ids in (list(range(N)), torch.arange(N), torch.arange(N, dtype=torch.int32), np.arange(N)):
        close(feed(make(key), key, ids=ids).compute(), value(key))


@EVERY
def test_without_ids_nothing_is_dropped(key: str) -> None:
    metric = feed(feed(make(key), key), key)
    assert metric.result().n in (2 * N, 2 * value_count(key))


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


@pytest.mark.parametrize("key", TWO_SETS)
def test_a_kept_reference_survives_reset(key: str) -> None:
    metric = make(key, reset_real_features=False)
    before = feed(metric, key).compute()
    metric.reset()
    assert f"|n_real:{N}|n:{N}" in feed(metric, key).result().signature
    assert torch.equal(metric.compute(), before)


@pytest.mark.parametrize("key", TWO_SETS)
@pytest.mark.parametrize("keep", [True, False])
def test_forward_does_not_double_the_reference(key: str, keep: bool) -> None:
    metric = CASES[key][0](reset_real_features=not keep)
    with_nan = metric(images(range(N), 0), True)
    assert with_nan.isnan()  # one set alone
    step = metric(*CASES[key][1](range(N)))
    close(step, value(key))
    assert f"|n_real:{N}|n:{N}" in metric.result().signature
    close(metric.compute(), value(key))


def test_the_sums_of_torchmetrics_are_there() -> None:
    metric = feed(make("fid"), "fid")
    features = TinyNet()(images(range(N), 1)).double().detach()
    assert metric.fake_features_num_samples == N
    assert metric.fake_features_num_samples.dtype == torch.int64
    torch.testing.assert_close(metric.fake_features_sum, features.sum(0))
    torch.testing.assert_close(metric.fake_features_cov_sum, features.T @ features)
    assert metric.real_features_cov_sum.shape == (8, 8)


@pytest.mark.parametrize("key", ["fd_digits_clip", "clip_score", "lpips_diversity", "lpips"])
def test_value_range(key: str) -> None:
    """Images declared in [-1, 1] are the same images in [0, 1]."""
    values = []
    for low in (0.0, -1.0):
        metric = CASES[key][0](value_range=(low, 1.0))

        def convert(x: Any, low: float = low) -> Any:
            return x.float() / 255 * (1 - low) + low if isinstance(x, Tensor) else x

        if key in TWO_SETS:
            metric.update(convert(images(range(N), 0)), True)
        metric.update(*map(convert, CASES[key][1](range(N))))
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
