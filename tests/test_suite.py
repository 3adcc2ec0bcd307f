"""MetricSuite: one pass per network, the numbers of the single metrics, and states that can be saved and merged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import lightning as L
import pytest
import torch
from conftest import TinyNet, random_images
from torch import Tensor, nn

from lightning_imgmetrics import (
    CLIPScore,
    FrechetDistance,
    FrechetInceptionDistance,
    LearnedPerceptualImagePatchSimilarity,
    LPIPSDiversity,
    MetricSuite,
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
from lightning_imgmetrics.models.clip import ClipExtractor

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
    from lightning_imgmetrics.models.inception import InceptionExtractor

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
    with pytest.raises(UnknownName, match=r"'fid', 'fd_digits_clip'.*got 'fidd'"):
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
    with pytest.raises(ShapeError, match="one string"):
        suite.update(FAKE, prompts="one", target=REAL)
    with pytest.raises(ValueRangeError, match="`target` must lie in"):
        suite.update(FAKE, prompts=PROMPTS, target=REAL.float())


def test_a_refused_batch_leaves_no_trace() -> None:
    """A batch is checked before the first metric takes it."""
    suite = feed(make())
    expected = values(suite)
    for wrong in ({"target": REAL}, {"prompts": PROMPTS}, {"prompts": PROMPTS, "target": REAL, "ids": [1]}):
        with pytest.raises((TypeError, ValueError)):
            suite.update(FAKE, **wrong)
    assert values(suite) == expected
    assert {result.n for result in suite.results().values()} == {N}


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
