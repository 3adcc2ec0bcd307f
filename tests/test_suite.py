"""MetricSuite: one pass per network, the numbers of the single metrics, and states that can be saved and merged."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from conftest import TinyNet, random_images
from torch import Tensor, nn
from torchmetrics import MetricCollection

from lightning_imgmetrics import (
    METRICS,
    Authenticity,
    CLIPMaximumMeanDiscrepancy,
    CLIPScore,
    DensityCoverage,
    FeatureLikelihoodDivergence,
    FrechetDistance,
    FrechetInceptionDistance,
    InceptionScore,
    IntraFrechetInceptionDistance,
    KernelInceptionDistance,
    LearnedPerceptualImagePatchSimilarity,
    LPIPSDiversity,
    MemorizationInformedFrechetInceptionDistance,
    MetricSuite,
    PrecisionRecall,
    VendiScore,
    WinRate,
)
from lightning_imgmetrics.errors import (
    IncompatibleStates,
    NotEnoughSamples,
    ShapeError,
    SignatureMismatch,
    UnknownName,
    ValueRangeError,
)
from lightning_imgmetrics.models.encoders.clip import ClipExtractor

N = 20
NAMES = ["fd_vectors", "fd_digits_clip", "clip_score", "lpips", "lpips_diversity"]


class Vectors(nn.Module):
    """Features in float64 that do not depend on the batch around an image; counts its passes."""

    num_features = 4
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        type(self).calls += 1
        x = nn.functional.adaptive_avg_pool2d(x.double(), 3).flatten(1)
        return (x @ torch.linspace(0, 9, 27 * 4, dtype=torch.float64).view(27, 4).sin()).sin()


class Maps(nn.Module):
    """Feature maps in float64; counts its passes."""

    calls = 0

    def forward(self, x: Tensor) -> list[Tensor]:
        type(self).calls += 1
        x = x.double()
        return [torch.cat([x, x.square()], 1), nn.functional.avg_pool2d((3 * x).sin(), 2)]


VECTORS, MAPS = Vectors(), Maps()
REAL, FAKE = random_images(N, 16, 0), random_images(N, 16, 1)
PROMPTS = [["one", "two", "three"][i % 3] for i in range(N)]


def make(**kwargs: object) -> MetricSuite:
    return MetricSuite(
        {
            "fd_vectors": FrechetDistance(VECTORS),
            "fd_digits_clip": FrechetDistance("digits-clip"),
            "clip_score": CLIPScore("digits-clip"),
            "lpips": LearnedPerceptualImagePatchSimilarity(MAPS),
            "lpips_diversity": LPIPSDiversity(MAPS, image_size=16),
        },
        **kwargs,
    )


def feed(suite: MetricSuite, rows: slice = slice(None), *, real: bool = True, with_ids: bool = True) -> MetricSuite:
    ids = torch.arange(N)[rows] if with_ids else None
    if real:
        suite.update_reference(REAL[rows], ids=ids)
    suite.update(FAKE[rows], prompts=PROMPTS[rows], target=REAL[rows], ids=ids)
    return suite


def values(suite: MetricSuite) -> dict[str, float]:
    return {name: value.item() for name, value in suite.compute().items()}


def nearly(expected: dict[str, float], rel: float = 1e-12) -> object:
    return pytest.approx(expected, rel=rel)


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, int]]:
    """Counts the passes of each network from here on."""
    clip = []
    run = ClipExtractor.run
    monkeypatch.setattr(ClipExtractor, "run", lambda *args: clip.append(1) or run(*args))
    before = Vectors.calls, Maps.calls

    def counted() -> dict[str, int]:
        return {"vectors": Vectors.calls - before[0], "maps": Maps.calls - before[1], "clip": len(clip)}

    return counted


def test_each_network_sees_each_batch_once(passes: Callable[[], dict[str, int]]) -> None:
    suite = make()
    start = passes()
    suite.update_reference(REAL)
    assert {k: v - start[k] for k, v in passes().items()} == {"vectors": 1, "maps": 0, "clip": 1}
    start = passes()
    suite.update(FAKE, prompts=PROMPTS, target=REAL)
    assert {k: v - start[k] for k, v in passes().items()} == {"vectors": 1, "maps": 1, "clip": 1}


def test_layers_of_one_inception_share_a_pass(inception_weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_imgmetrics.models.encoders.inception import InceptionExtractor

    asked = []
    run = InceptionExtractor.run
    monkeypatch.setattr(InceptionExtractor, "run", lambda *args: asked.append(args[3]) or run(*args))
    metrics = {
        f"fid_{d}": FrechetInceptionDistance(d, feature_extractor_weights_path=inception_weights) for d in (64, 192)
    }
    suite = MetricSuite(metrics)
    for images, real in ((REAL[:2], True), (FAKE[:2], False)):
        suite.update(images, real=real)
    assert [sorted(layers) for layers in asked] == [["192", "64"]] * 2
    for name, metric in metrics.items():
        alone = FrechetInceptionDistance(int(name[4:]), feature_extractor_weights_path=inception_weights)
        alone.update(REAL[:2], real=True)
        alone.update(FAKE[:2], real=False)
        assert metric.compute().item() == pytest.approx(alone.compute().item(), rel=1e-9)


def test_the_suite_measures_what_single_metrics_do() -> None:
    single = dict(make().named())
    for name in ("fd_vectors", "fd_digits_clip"):
        single[name].update(REAL, real=True)
        single[name].update(FAKE, real=False)
    single["clip_score"].update(FAKE, PROMPTS)
    single["lpips"].update(FAKE, REAL)
    single["lpips_diversity"].update(FAKE, PROMPTS)
    expected = {name: metric.compute().item() for name, metric in single.items()}
    suite = feed(make(), with_ids=False)
    assert values(suite) == nearly(expected, 1e-6)  # float32 networks in other batches
    results = suite.results()
    assert list(results) == NAMES
    assert {name: result.value for name, result in results.items()} == values(suite)
    assert f"|n_real:{N}|n:{N}" in results["fd_vectors"].signature
    assert results["fd_vectors"].n == N


def test_float_images_score_as_the_png_they_are_saved_to() -> None:
    noise = torch.rand(N, 3, 1, 1, generator=torch.Generator().manual_seed(0)) - 0.5
    as_float, as_bytes = make(), make()
    for suite, fake, real in ((as_bytes, FAKE, REAL), (as_float, (FAKE + 0.9 * noise) / 255, REAL / 255)):
        suite.update_reference(real.clamp(max=1) if real.is_floating_point() else real)
        suite.update(fake, prompts=PROMPTS, target=real)
    assert values(as_float) == values(as_bytes)


def test_value_range_of_the_suite() -> None:
    suite = make(value_range=(-1.0, 1.0))
    suite.update_reference(REAL / 127.5 - 1)
    suite.update(FAKE / 127.5 - 1, prompts=PROMPTS, target=REAL / 127.5 - 1)
    assert values(suite) == nearly(values(feed(make())), 1e-6)


def test_mixed_sizes() -> None:
    """CLIP resizes, so a list of images of several sizes is one batch for it."""
    suite = MetricSuite([FrechetDistance("digits-clip"), CLIPScore("digits-clip")])
    images = [random_images(1, size, i)[0] for i, size in enumerate([8, (12, 9), 20, 8])]
    suite.update_reference(REAL)
    suite.update(images, prompts=PROMPTS[:4])
    alone = CLIPScore("digits-clip")
    for image, prompt in zip(images, PROMPTS, strict=False):
        alone.update(image, prompt)
    assert suite.compute()["clip_score"].item() == pytest.approx(alone.compute().item(), rel=1e-5)


def test_reset_generated_keeps_the_reference() -> None:
    suite = feed(make())
    expected = values(suite)
    suite.reset_generated()
    assert suite["fd_vectors"].reset_real_features is True
    feed(suite, real=False)
    assert values(suite) == expected
    suite.reset()
    feed(suite, real=False)
    with pytest.raises(NotEnoughSamples, match="0 real and 20 generated"):
        suite.compute()


# Names


def test_keys_of_the_table() -> None:
    suite = MetricSuite(["fd_digits_clip", CLIPScore("digits-clip"), "win_rate"])
    assert list(suite.named()) == ["fd_digits_clip", "clip_score", "win_rate"]
    assert list(MetricSuite("fd_digits_clip").named()) == ["fd_digits_clip"]
    with pytest.raises(UnknownName, match=r"'fid', .*'fd_digits_clip'.*got 'fidd'"):
        MetricSuite(["fidd"])
    with pytest.raises(ValueError, match="one name each"):
        MetricSuite([CLIPScore("digits-clip"), CLIPScore("digits-clip")])


def test_metrics_of_users_networks_are_named_by_key() -> None:
    suite = MetricSuite([FrechetDistance("digits-clip"), FrechetInceptionDistance(TinyNet())])
    assert list(suite.named()) == ["fd_digits_clip", "fid"]


# What an update needs


def test_missing_inputs_are_named() -> None:
    suite = make()
    with pytest.raises(TypeError, match="metric 'clip_score' needs `prompts=`"):
        suite.update(FAKE, target=REAL)
    with pytest.raises(TypeError, match="metric 'lpips' needs `target=`"):
        suite.update(FAKE, prompts=PROMPTS)
    with pytest.raises(ShapeError, match="`prompts` must hold one entry per image, got 3 for 20 images"):
        suite.update(FAKE, prompts=PROMPTS[:3], target=REAL)
    with pytest.raises(ShapeError, match="`prompts` must hold one entry per image, got 0 for 20 images"):
        suite.update(FAKE, prompts=[], target=REAL)
    with pytest.raises(ShapeError, match="`target` must hold one entry per image, got 2 for 20 images"):
        suite.update(FAKE, prompts=PROMPTS, target=REAL[:2])
    with pytest.raises(ValueRangeError, match="`target` must lie in"):
        suite.update(FAKE, prompts=PROMPTS, target=REAL.float())


def test_one_prompt_is_that_of_all_images() -> None:
    one, each = make(), make()
    one.update(FAKE, prompts="a three", target=REAL, ids=range(N))
    each.update(FAKE, prompts=["a three"] * N, target=REAL, ids=range(N))
    assert one["clip_score"].compute() == each["clip_score"].compute()


def test_a_refused_batch_leaves_no_trace() -> None:
    """A batch is checked before the first metric takes it."""
    suite = feed(make())
    expected = values(suite)
    for wrong in ({"target": REAL}, {"prompts": PROMPTS}, {"prompts": PROMPTS, "target": REAL, "ids": [1]}):
        with pytest.raises((TypeError, ValueError)):
            suite.update(FAKE, **wrong)
    assert values(suite) == expected
    assert {result.n for result in suite.results().values()} == {N}


def test_a_batch_that_one_score_refuses_is_taken_by_none() -> None:
    """CLIPScore would take it, pairs of unlike size and images of one pixel have no PSNR and no noise level."""
    pairs = MetricSuite({"clip_score": CLIPScore("digits-clip"), "psnr": METRICS["psnr"]()})
    with pytest.raises(ShapeError, match="same sizes"):
        pairs.update(FAKE, prompts=PROMPTS, target=REAL[..., :-1])
    pixels = MetricSuite({"clip_score": CLIPScore("digits-clip"), "noise": METRICS["noise"]()})
    with pytest.raises(ShapeError, match="at least 3 x 3"):
        pixels.update(FAKE[..., :1, :1], prompts=PROMPTS)
    for suite in (pairs, pixels):
        assert all(m.streams.untouched for m in suite.named().values())


def test_overshoot_is_counted() -> None:
    suite = make()
    images = FAKE[:6] / 255
    images[0, :, 0, 0] = 1.01
    suite.update_reference(REAL / 255)
    suite.update(images, prompts=PROMPTS[:6], target=REAL[:6])
    assert {result.details["n_clamped"] for result in suite.results().values()} == {3}
    suite.reset_generated()
    suite.update(FAKE, prompts=PROMPTS, target=REAL)
    assert {result.details["n_clamped"] for result in suite.results().values()} == {0}


def test_inference_mode() -> None:
    """As Lightning alternates between training and validation."""
    suite = make()
    for _ in range(2):
        with torch.inference_mode():
            feed(suite, slice(0, 10))
        feed(suite, slice(10, N))
        with torch.inference_mode():
            inside = values(suite)
            suite.reset()
        assert inside == nearly(values(feed(feed(make(), slice(0, 10)), slice(10, N))))


def test_scores_by_sample() -> None:
    suite = make()
    suite.update(FAKE[:3], prompts=PROMPTS[:3], target=REAL[:3], ids=[7, 3, 5])
    scores = suite.scores()
    assert list(scores) == ["clip_score", "lpips"]
    assert sorted(scores["lpips"]) == [3, 5, 7]
    alone = LearnedPerceptualImagePatchSimilarity(MAPS)
    alone.update(FAKE[1:2], REAL[1:2])
    assert scores["lpips"][3] == pytest.approx(alone.compute().item(), rel=1e-9)


# Save, load, merge


def test_save_and_load(tmp_path: Path) -> None:
    suite = feed(make())
    path = tmp_path / "deep" / "suite.safetensors"
    suite.save(path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # nothing half-written beside it
    again = make()
    again.load(path)
    assert values(again) == values(suite)
    assert again.results() == suite.results()
    assert again.scores() == suite.scores()
    feed(again)  # the same ids again
    assert values(again) == nearly(values(suite), 1e-6)


@pytest.mark.parametrize("with_ids", [True, False])
@pytest.mark.parametrize("on_disk", [True, False])
def test_shards_merge_to_the_whole(tmp_path: Path, with_ids: bool, on_disk: bool) -> None:
    parts = [slice(0, 9), slice(9, 10), slice(10, N)]
    whole = make()
    for rows in parts:  # in the same batches: float32 networks are not the point here
        feed(whole, rows, with_ids=with_ids)
    merged = make()
    for i, rows in enumerate(parts):
        shard = feed(make(), rows, with_ids=with_ids)
        shard.save(tmp_path / str(i))
        merged.merge(tmp_path / str(i) if on_disk else shard)
    assert values(merged) == nearly(values(whole), 1e-12)
    assert {k: r.n for k, r in merged.results().items()} == {k: r.n for k, r in whole.results().items()}


def test_resume_where_a_run_stopped(tmp_path: Path) -> None:
    first = feed(make(), slice(0, 8))
    first.save(tmp_path / "part")
    resumed = make()
    resumed.load(tmp_path / "part")
    feed(resumed, slice(8, N))
    whole = feed(feed(make(), slice(0, 8)), slice(8, N))
    assert values(resumed) == nearly(values(whole))


def test_the_reference_alone(tmp_path: Path) -> None:
    suite = feed(make())
    suite.save(tmp_path / "reference", side="real")
    other = make()
    other.load(tmp_path / "reference")
    feed(other, real=False)
    assert values(other) == nearly(values(suite))


def test_unlike_suites_are_refused(tmp_path: Path) -> None:
    wins = MetricSuite({"win_rate": WinRate(0)})
    wins["win_rate"].update(torch.tensor([0]), torch.tensor([1]), torch.tensor([1.0]))
    path = tmp_path / "wins"
    wins.save(path)
    for read in (lambda s: s.load(path), lambda s: s.merge(path), lambda s: s.merge(wins)):
        with pytest.raises(SignatureMismatch, match=r"contestant: (0 against 1|1 against 0)"):
            read(MetricSuite({"win_rate": WinRate(1)}))
        with pytest.raises(IncompatibleStates, match=r"\['win_rate'\], this one \['clip_score'\]"):
            read(MetricSuite([CLIPScore("digits-clip")]))


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    suite = feed(make())
    path = tmp_path / "suite"
    suite.save(path)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:4], b"", b"not a suite at all"):
        path.write_bytes(damaged)
        for read in (suite.load, suite.merge):
            with pytest.raises(IncompatibleStates, match="is not a saved suite"):
                read(path)
    with pytest.raises(FileNotFoundError):
        suite.load(tmp_path / "nowhere")
    assert {result.n for result in suite.results().values()} == {N}


def test_other_safetensors_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"weight": torch.zeros(2)}, tmp_path / "model")
    with pytest.raises(IncompatibleStates):
        make().load(tmp_path / "model")


def test_load_replaces_and_merge_adds(tmp_path: Path) -> None:
    rows = [slice(0, 10), slice(10, N)]
    feed(make(), rows[0], with_ids=False).save(tmp_path / "one")
    suite = feed(make(), rows[1], with_ids=False)
    suite.merge(tmp_path / "one")
    assert suite.results()["lpips"].n == N
    suite.load(tmp_path / "one")
    assert suite.results()["lpips"].n == 10
    assert "|n_real:10|n:10" in suite.results()["fd_vectors"].signature


# In a LightningModule


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.suite = make()


def test_a_module_with_a_suite_has_no_further_keys() -> None:
    module = Module()
    feed(module.suite)
    module.suite.compute()
    assert set(module.state_dict()) == {"layer.weight", "layer.bias"}
    assert len(list(module.parameters())) == 2
    module.load_state_dict(module.state_dict())
    module.half()
    module.double()
    assert values(module.suite) == values(feed(make()))


def test_clones_are_independent() -> None:
    suite = feed(make(), slice(0, 10))
    clone = suite.clone()
    feed(clone, slice(10, N))
    assert suite.results()["lpips"].n == 10
    assert clone.results()["lpips"].n == N


def test_a_float_module_gets_floats_from_a_suite() -> None:
    """The suite quantizes; a module made for `normalize=True` still sees [0, 1], as it does alone."""

    class Floats(nn.Module):
        num_features = 3

        def forward(self, x: Tensor) -> Tensor:
            assert x.is_floating_point()
            assert x.max() <= 1
            return x.mean((2, 3))

    suite = MetricSuite({"fid": FrechetInceptionDistance(Floats(), normalize=True)})
    images = random_images(4, 8)
    suite.update_reference(images)
    suite.update(images)
    assert suite.results()["fid"].value == pytest.approx(0, abs=1e-9)


def test_a_suite_has_no_value_of_a_batch() -> None:
    with pytest.raises(TypeError, match="call `update`"):
        MetricSuite({"fd": FrechetDistance(TinyNet())})(random_images(2, 8))


# Metrics that keep the same

MAKES: dict[str, Callable[..., Any]] = {
    "fid": lambda **kw: FrechetInceptionDistance(VECTORS, **kw),
    "mifid": lambda **kw: MemorizationInformedFrechetInceptionDistance(VECTORS, **kw),
    "kid": lambda **kw: KernelInceptionDistance(VECTORS, subsets=4, subset_size=9, **kw),
    "precision": lambda **kw: PrecisionRecall("precision", VECTORS, **kw),
    "recall": lambda **kw: PrecisionRecall("recall", VECTORS, **kw),
    "density": lambda **kw: DensityCoverage("density", VECTORS, **kw),
    "coverage": lambda **kw: DensityCoverage("coverage", VECTORS, **kw),
    "authenticity": lambda **kw: Authenticity(VECTORS, **kw),
    "fld": lambda **kw: FeatureLikelihoodDivergence(VECTORS, test_share=0.4, **kw),
    "cmmd": lambda **kw: CLIPMaximumMeanDiscrepancy(VECTORS, **kw),
    "vendi": lambda **kw: VendiScore(VECTORS, **kw),
    "inception_score": lambda **kw: InceptionScore(VECTORS, splits=2, **kw),
    "intra_fid": lambda **kw: IntraFrechetInceptionDistance(VECTORS, **kw),
}
ON_ONE_BANK = ("mifid", "kid", "precision", "recall", "density", "coverage", "authenticity", "fld")
LABELS = torch.arange(N) % 2


def sharing(*names: str) -> MetricSuite:
    return MetricSuite({name: MAKES[name]() for name in names or MAKES})


def feed_sharing(suite: MetricSuite, rows: slice = slice(None), *, sides: tuple[bool, ...] = (True, False)) -> Any:
    for real in sides:
        batch = REAL[rows] if real else FAKE[rows]
        suite.update(batch, real=real, labels=LABELS[rows], ids=torch.arange(N)[rows])
    return suite


def found(suite: MetricSuite) -> dict[str, float]:
    return {name: result.value for name, result in suite.results().items()}


def held_bytes(suite: MetricSuite) -> int:
    """Of all states, each storage counted once."""
    states = [value for m in suite.named().values() for value in m.metric_state.values()]
    tensors = [x for state in states for x in (state if isinstance(state, list) else [state])]
    return sum({x.data_ptr(): x.nbytes for x in tensors}.values())


def banks(suite: MetricSuite) -> int:
    """Rows of feature banks that the members keep."""
    return sum(
        len(stream.value())
        for m in suite.named().values()
        for name, stream in m.streams.owned().items()
        if name.endswith("_bank")
    )


def alone(name: str) -> Any:
    metric = MAKES[name]()
    labels = {"labels": LABELS} if name == "intra_fid" else {}
    if "real" in metric.inputs:
        metric.update(REAL, real=True, ids=range(N), **labels)
        metric.update(FAKE, real=False, ids=range(N), **labels)
    else:
        metric.update(FAKE, ids=range(N))
    return metric


def test_one_bank_serves_all() -> None:
    suite = feed_sharing(sharing())
    assert banks(suite) == 2 * 2 * N  # two sides; those of CMMD are scaled to length 1
    assert found(suite) == nearly({name: alone(name).result().value for name in MAKES})
    one = held_bytes(feed_sharing(sharing("kid")))
    assert held_bytes(feed_sharing(sharing("kid", "precision", "recall", "density", "authenticity"))) < one + 100


def test_each_batch_passes_once_for_all(passes: Callable[[], dict[str, int]]) -> None:
    feed_sharing(sharing())
    assert passes()["vectors"] == 2


def test_streams_that_differ_are_kept_apart() -> None:
    """In number, type or transform of what is kept, in how it is reset, or in the network."""
    others = {
        "bounded": MAKES["precision"](max_samples=5),
        "float16": MAKES["precision"](bank="float16"),
        "kept": MAKES["precision"](reset_real_features=False),
        "other": PrecisionRecall("precision", Vectors()),
        "cmmd": MAKES["cmmd"](),
        "unsynced": MAKES["precision"](sync_on_compute=False),
    }
    suite = MetricSuite({"kid": MAKES["kid"](), **others})
    for name in ("bounded", "float16", "other", "cmmd", "unsynced"):
        assert not suite[name].streams.owners(), name
    assert suite["kept"].streams.owners() == []
    feed_sharing(suite)
    suite.reset()
    assert [len(suite[name].features("real")) for name in ("kid", "kept")] == [0, N]


def test_members_that_share_are_not_changed_alone() -> None:
    suite = feed_sharing(sharing())
    expected = found(suite)
    for name in ("kid", "mifid", "precision"):  # who keeps, who does both, who reads
        with pytest.raises(TypeError, match="shares its samples with the rest of a MetricSuite: update the suite"):
            suite[name].update(REAL, real=True)
        with pytest.raises(TypeError, match="merge the suite"):
            suite[name].merge_state(alone(name))
    with pytest.raises(ValueError, match="'p' shares its samples with the rest of another"):
        MetricSuite({"p": suite["precision"]})
    pair = MetricSuite({name: MAKES["fld"](seed=i) for i, name in enumerate("ab")})
    pair["a"].update_test(REAL)
    with pytest.raises(TypeError, match="call its `update_test`"):
        pair["b"].update_test(REAL)
    assert found(suite) == expected
    assert found(MetricSuite(suite.named())) == expected


def test_metrics_that_were_fed_keep_their_own(tmp_path: Path) -> None:
    """By images, by statistics, or a reference that outlived a reset."""
    fed, filled, kept = MAKES["precision"](), MAKES["recall"](), MAKES["density"](reset_real_features=False)
    fed.update(REAL[:8], real=True)
    statistics = feed_sharing(sharing("kid"), sides=(True,)).reference()
    statistics.fill([filled])
    kept.update(REAL[:9], real=True)
    kept.reset()
    suite = MetricSuite({"kid": MAKES["kid"](), "fed": fed, "filled": filled, "kept": kept})
    assert [len(suite[name].features("real")) for name in suite.named()] == [0, 8, N, 9]
    suite.update(FAKE)
    assert [len(suite[name].features("fake")) for name in suite.named()] == [N] * 4


@pytest.mark.parametrize("copied", [lambda s: s.clone(), copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_share_among_themselves(copied: Callable[[MetricSuite], MetricSuite]) -> None:
    suite = feed_sharing(sharing(), slice(0, 17))
    before = found(suite)
    again = copied(suite)
    assert found(again) == before
    assert banks(again) == banks(suite)
    owner = again["precision"].streams["real_bank"].owner
    assert id(owner) in {id(m) for m in again.named().values()}
    feed_sharing(again, slice(17, N))
    assert found(again) == nearly(found(feed_sharing(sharing())))
    assert found(suite) == before


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("apart", [True, False])
def test_files_of_suites_that_share(tmp_path: Path, order: int, apart: bool) -> None:
    """Loaded and merged by suites that share in another order or not at all; the same bits."""
    names = [name for name in MAKES if name != "vendi"]
    suite = feed_sharing(sharing(*names))
    suite.save(tmp_path / "suite")

    def other() -> MetricSuite:
        members = {
            name: MAKES[name](**({"sync_on_compute": False} if apart and i % 2 else {})) for i, name in enumerate(names)
        }
        return MetricSuite(dict(list(members.items())[::order]))

    again = other()
    again.load(tmp_path / "suite")
    assert found(again) == found(suite)
    for shard in (suite, tmp_path / "suite"):
        merged = other()
        merged.merge(shard)
        assert found(merged) == nearly(found(suite))
    again.save(tmp_path / "again")
    back = sharing(*names)
    back.load(tmp_path / "again")
    assert found(back) == found(suite)
    assert banks(back) == banks(suite)


def test_shards_of_suites_that_share(tmp_path: Path) -> None:
    whole, merged = feed_sharing(sharing()), sharing()
    for i, rows in enumerate((slice(0, 9), slice(9, 10), slice(10, N))):
        feed_sharing(sharing(), rows).save(tmp_path / str(i))
        merged.merge(tmp_path / str(i))
    assert found(merged) == nearly(found(whole), 1e-9)
    assert banks(merged) == banks(whole)


def test_what_was_not_shared_is_not_taken_for_shared(tmp_path: Path) -> None:
    """Members that saw different samples have no place in a suite that keeps them once."""
    apart = MetricSuite({name: MAKES[name](sync_on_compute=name == "kid") for name in ("kid", "precision")})
    feed_sharing(apart)
    apart["kid"].update(REAL[:3] // 2, real=True)
    apart.save(tmp_path / "apart")
    suite = feed_sharing(sharing("kid", "precision"), slice(0, 12))
    before = found(suite)
    for change in (
        lambda: suite.merge(apart),
        lambda: suite.merge(tmp_path / "apart"),
        lambda: suite.load(tmp_path / "apart"),
    ):
        with pytest.raises(IncompatibleStates, match="'kid' and 'precision' share their samples in this suite"):
            change()
    assert found(suite) == before


def test_files_of_other_states_are_refused(tmp_path: Path) -> None:
    """An interval does not change the value, so the signatures agree; the states do not."""
    with_groups, without = (MetricSuite({"fid": MAKES["fid"](groups=groups)}) for groups in (2, 0))
    feed_sharing(with_groups).save(tmp_path / "groups")
    for read in (without.load, without.merge):
        with pytest.raises(
            IncompatibleStates, match=r"'fid' keeps 'fake_moments' as \(21,\) torch.float64, the file has"
        ):
            read(tmp_path / "groups")


def test_filled_references_can_be_saved(tmp_path: Path) -> None:
    statistics = feed_sharing(sharing("kid", "fid"), sides=(True,)).reference()
    suite = MetricSuite({"kid": MAKES["kid"](), "apart": MAKES["kid"](sync_on_compute=False)})
    statistics.fill(suite.named().values())
    suite.save(tmp_path / "suite")
    suite.load(tmp_path / "suite")
    suite.update(FAKE)
    assert found(suite)["kid"] == found(suite)["apart"]


def test_a_new_reference_is_seen_by_all_that_share() -> None:
    suite = feed_sharing(sharing())
    before = found(suite)
    other = MetricSuite({name: MAKES[name]() for name in MAKES})
    other.update_reference(FAKE.flip(0), labels=LABELS, ids=range(N))
    other.update(FAKE, labels=LABELS, ids=range(N))
    suite.update_reference(other.reference())
    after = found(suite)
    assert after == nearly(found(other))
    assert all(after[name] != before[name] for name in ("kid", "mifid", "cmmd", "fid"))
    suite["precision"].reset()  # it keeps nothing of its own
    assert found(suite) == after


def test_reset_generated_of_suites_that_share() -> None:
    suite = feed_sharing(sharing())
    before = found(suite)
    suite.reset_generated()
    assert {len(m.features("fake")) for name, m in suite.named().items() if name in ON_ONE_BANK} == {0}
    assert found(feed_sharing(suite, sides=(False,))) == nearly(before)


def test_what_neighbors_cost_is_paid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from lightning_imgmetrics.metrics.distribution import feature_bank as banked

    searches = []
    nearest = banked.nearest
    monkeypatch.setattr(banked, "nearest", lambda *a, **kw: searches.append(1) or nearest(*a, **kw))
    suite = feed_sharing(sharing("precision", "recall", "density", "coverage"))
    suite.results()
    assert len(searches) == 2  # one for each side
    suite.update(FAKE[:3] // 2, real=False)
    suite.results()
    assert len(searches) == 3  # the reference is the same


def test_labels_through_a_suite() -> None:
    suite = sharing("intra_fid", "fid")
    with pytest.raises(TypeError, match="metric 'intra_fid' needs `labels=`"):
        suite.update(FAKE)
    for wrong, message in (
        (LABELS[:3], "`labels` must hold one entry per image, got 3 for 20 images"),
        (LABELS.float(), "`labels` must be 20 integers"),
        (LABELS - 1, r"`labels` must lie in"),
    ):
        with pytest.raises(ValueError, match=message):
            suite.update(FAKE, labels=wrong)
    assert suite["fid"].fake_features_num_samples == 0  # a refused batch leaves no trace
    feed_sharing(suite)
    assert found(suite)["intra_fid"] == pytest.approx(alone("intra_fid").compute().item(), rel=1e-12)
    suite.update_reference(REAL, labels=LABELS.tolist(), ids=range(N))
    suite.update_reference(REAL[:4], labels=[2] * 4, ids=range(100, 104))
    with pytest.raises(NotEnoughSamples, match="of class_2 there are 4 real and 0 generated images"):
        suite.compute()


def test_all_metrics_on_inception_share_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """By their keys alone; every layer of one protocol comes from one pass."""
    from lightning_imgmetrics.models.encoders.inception import InceptionExtractor

    asked: list[list[str]] = []

    def run(self: InceptionExtractor, network: Any, x: Tensor, layers: Any) -> dict[str, Tensor]:
        asked.append(sorted(layers))
        assert x.shape[1:] == (3, 299, 299)
        return {layer: x[:, :, :30, :30].flatten(1)[:, : self.dim(layer)].clone() for layer in layers}

    monkeypatch.setattr(InceptionExtractor, "run", run)
    monkeypatch.setattr(InceptionExtractor, "network", lambda self, device: None)
    suite = MetricSuite(["fid", "kid", "inception_score", "precision", "vendi", "authenticity", "mifid"])
    for images, real in ((REAL[:4], True), (FAKE[:4], False)):
        suite.update(images, real=real)
    assert asked == [["2048"], ["2048", "logits_unbiased"]]
    assert len({m.extractor for m in suite.named().values()}) == 1
    for name in ("precision", "mifid"):
        assert not suite[name].streams.owned(), name


def test_a_plain_collection_never_takes_metrics_for_equal() -> None:
    """torchmetrics compares states after one batch, when a bounded bank holds what an unbounded one does."""
    network = TinyNet()
    makers = {
        "bounded": lambda: PrecisionRecall("precision", network, max_samples=20),
        "whole": lambda: PrecisionRecall("precision", network),
        "kid": lambda: KernelInceptionDistance(network, subsets=3, subset_size=15),
    }
    collection = MetricCollection({name: make() for name, make in makers.items()})
    alone = {name: make() for name, make in makers.items()}
    for start in range(0, 60, 15):
        for real in (True, False):
            batch, ids = random_images(60, 16, int(real))[start : start + 15], range(start, start + 15)
            collection.update(batch, real, ids=ids)
            for m in alone.values():
                m.update(batch, real, ids=ids)
    assert len(collection.compute_groups) == 3
    assert collection["bounded"].result().n == 20
    assert collection["whole"].result().n == 60
    for name, m in alone.items():
        assert collection[name].result().value == m.result().value


def test_reset_all_forgets_kept_references() -> None:
    suite = MetricSuite({"fd": FrechetDistance(TinyNet(), reset_real_features=False)})
    suite.update_reference(random_images(10, 16), ids=range(10))
    suite.reset()
    assert suite["fd"].state("real_moments")[0] == 10
    suite.reset_all()
    assert suite["fd"].state("real_moments")[0] == 0
    assert not suite["fd"].reset_real_features


def test_a_suite_takes_no_metrics_later() -> None:
    suite = MetricSuite({"fd": FrechetDistance(TinyNet())})
    with pytest.raises(TypeError, match="make a new one"):
        suite.add_metrics({"kid": KernelInceptionDistance(TinyNet())})


def test_a_merge_that_does_not_fit_changes_nothing() -> None:
    network = TinyNet()

    def made(size: int) -> MetricSuite:
        suite = MetricSuite({"fd": FrechetDistance(network), "kid": KernelInceptionDistance(network, 3, size)})
        suite.update_reference(random_images(10, 16), ids=range(10))
        suite.update(random_images(10, 16, 1), ids=range(10))
        return suite

    suite = made(5)
    with pytest.raises(SignatureMismatch, match="subset_size"):
        suite.merge(made(6))
    assert suite["fd"].result().n == 10
