"""The reference: whatever its form it is the same set of images, measured once and cached by content."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from callback_parts import Painter, Pixels, data, loaders, monitor, trainer, values
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_imgmetrics import (
    CLIPScore,
    FrechetDistance,
    KernelInceptionDistance,
    MetricSuite,
    ReferenceStatistics,
    VendiScore,
)
from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.metrics.base.metric import ImageMetric

IMAGES = (data(23, seed=1).tensors[0] * 255).round().to(torch.uint8)


class Records(Dataset):
    def __init__(self, key: str) -> None:
        self.key = key

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"label": index, self.key: IMAGES[index]}


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return iter([(image, 0) for image in IMAGES])


class Batches:
    """An iterable that is no sequence."""

    def __iter__(self) -> Iterator[Tensor]:
        return iter(IMAGES.split(6))


def folder(path: Path) -> str:
    for i, image in enumerate(IMAGES):
        below = path / "images" / str(i % 3)
        below.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(below / f"{i}.png")
    (path / "images" / "notes.txt").write_text("no image")
    return str(path / "images")


PAIRS = TensorDataset(IMAGES, torch.zeros(len(IMAGES)))
SOURCES: dict[str, Any] = {
    "tensor": lambda path: IMAGES,
    "float tensor": lambda path: IMAGES.float() / 255,
    "dataset of pairs": lambda path: PAIRS,
    "dataset of images": lambda path: list(IMAGES),
    "dataset of records": lambda path: Records("image"),
    "dataset of pixel values": lambda path: Records("pixel_values"),
    "loader of pairs": lambda path: DataLoader(PAIRS, 4, shuffle=True, drop_last=True),
    "loader of records": lambda path: DataLoader(Records("image"), 5),
    "loader of a stream": lambda path: DataLoader(Stream(), 5),
    "folder": folder,
    "folder as a path": lambda path: Path(folder(path)),
    "iterable of batches": lambda path: Batches(),
    "list of batches": lambda path: list(IMAGES.split(6)),
    "list of batches of pairs": lambda path: [(batch, torch.zeros(len(batch))) for batch in IMAGES.split(6)],
}


def measure(root: Path, reference: Any = None, val: Any = None, **kwargs: Any) -> float:
    """The distance that an evaluation of the untrained model gives."""
    callback = monitor(reference=reference, **kwargs)
    val = DataLoader(PAIRS, 8) if val is None else val
    trainer(root, callback).validate(Still(), val, verbose=False)
    return values(callback)[0]


class Still(Painter):
    def validation_step(self, batch: Any, batch_idx: int) -> None: ...


@pytest.fixture
def expected(tmp_path: Path) -> float:
    return measure(tmp_path)


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_is_the_same_reference(tmp_path: Path, expected: float, source: str) -> None:
    reference = SOURCES[source](tmp_path)
    assert measure(tmp_path, reference, val=DataLoader(data(9), 8), cache=False) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("cache", [True, False])
def test_batches_that_can_be_read_once(tmp_path: Path, expected: float, cache: bool) -> None:
    """A generator cannot be hashed first and measured then."""
    for path in (tmp_path / "cache").rglob("*.safetensors"):
        path.unlink()
    assert measure(tmp_path, iter(IMAGES.split(6)), cache=cache) == pytest.approx(expected, rel=1e-9)


def test_another_reference_is_another_distance(tmp_path: Path, expected: float) -> None:
    assert measure(tmp_path, IMAGES[:12]) != pytest.approx(expected, rel=1e-3)


def test_image_key_names_the_image(tmp_path: Path, expected: float) -> None:
    assert measure(tmp_path, Records("photo"), image_key="photo") == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="image_key"):
        measure(tmp_path, Records("photo"))


def test_value_range_holds_for_reference_and_samples(tmp_path: Path, expected: float) -> None:
    class Signed(Still):
        def sample(self, generators: list[torch.Generator]) -> Tensor:
            return 2 * super().sample(generators) - 1

    callback = monitor(reference=IMAGES.float() / 127.5 - 1, value_range=(-1.0, 1.0))
    trainer(tmp_path, callback).validate(Signed(), DataLoader(PAIRS, 8), verbose=False)
    assert values(callback)[0] == pytest.approx(expected, rel=1e-3)
    with pytest.raises(ValueError, match="value_range"):
        measure(tmp_path, IMAGES.float() / 127.5 - 1)


# Cache


def passes(root: Path, images: Tensor, **kwargs: Any) -> tuple[int, float]:
    """How many images the network saw, and the distance."""
    network = Pixels()
    callback = monitor({"fd": FrechetDistance(network)}, reference=images, **kwargs)
    trainer(root, callback).validate(Still(), DataLoader(PAIRS, 8), verbose=False)
    return network.passes, values(callback)[0]


def test_the_reference_is_cached_by_content(tmp_path: Path) -> None:
    first = passes(tmp_path, IMAGES)
    files = list((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 1
    assert first[0] == 12 + 23
    assert passes(tmp_path, IMAGES.flip(0).clone()) == (12, pytest.approx(first[1], rel=1e-12))
    assert list((tmp_path / "cache").rglob("*.safetensors")) == files


def test_the_cached_reference_is_what_is_read(tmp_path: Path) -> None:
    """The file is one of `ReferenceStatistics`, which a user can load, too."""
    _, value = passes(tmp_path, IMAGES)
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    statistics = ReferenceStatistics.load(path)
    assert statistics.n == 23
    assert statistics.content.endswith("-23")
    (entry,) = statistics.entries
    entry.value[1:7] += 1  # the mean
    statistics.save(path)
    assert passes(tmp_path, IMAGES)[1] != pytest.approx(value, rel=1e-3)


def test_one_changed_pixel_is_measured_again(tmp_path: Path) -> None:
    _, value = passes(tmp_path, IMAGES)
    other = IMAGES.clone()
    other[5, 1, 3, 3] ^= 1
    count, distance = passes(tmp_path, other)
    assert count == 12 + 23
    assert distance != value
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2


def test_other_weights_of_a_network_are_measured_again(tmp_path: Path) -> None:
    def run(network: Pixels, **kwargs: Any) -> float:
        callback = monitor({"fd": FrechetDistance(network)}, reference=IMAGES, **kwargs)
        trainer(tmp_path, callback).validate(Still(), DataLoader(PAIRS, 8), verbose=False)
        return values(callback)[0]

    run(Pixels())
    other = Pixels()
    other.weight *= 3
    assert run(other) == pytest.approx(run(other, cache=False), rel=1e-9)


def test_without_cache_no_file_is_written(tmp_path: Path) -> None:
    assert passes(tmp_path, IMAGES, cache=False)[0] == 12 + 23
    assert passes(tmp_path, IMAGES, cache=False)[0] == 12 + 23
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_the_reference_is_measured_once_in_a_fit(tmp_path: Path) -> None:
    network = Pixels()
    callback = monitor({"fd": FrechetDistance(network)}, cache=False)
    trainer(tmp_path, callback, max_epochs=3).fit(Painter(), *loaders())
    assert network.passes == 24 + 3 * 12


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def exchange(path: Path) -> None:
    """Put the statistics of other images there."""
    suite = MetricSuite({"fd": FrechetDistance(Pixels())})
    suite.update_reference(data(9).tensors[0])
    suite.reference(content="0123456789abcdef-9").save(path)


def save_states(path: Path) -> None:
    """Put the states of a suite there, as caches once were."""
    suite = MetricSuite({"fd": FrechetDistance(Pixels())})
    suite.update_reference(data(9).tensors[0])
    suite.save(path, side="real")


@pytest.mark.parametrize("spoil", [damage, exchange, save_states])
def test_a_cache_that_does_not_fit_is_measured_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, spoil: Callable[[Path], None]
) -> None:
    _, value = passes(tmp_path, IMAGES)
    (path,) = (tmp_path / "cache").rglob("*.safetensors")
    spoil(path)
    with caplog.at_level("INFO"):
        assert passes(tmp_path, IMAGES) == (12 + 23, value)
    (message,) = [text for text in caplog.messages if "cached reference" in text]
    assert f"{path} cannot be used and is measured again: " in message
    assert passes(tmp_path, IMAGES) == (12, value)


def test_metrics_that_need_other_statistics_have_another_file(tmp_path: Path) -> None:
    def run(**metrics: ImageMetric) -> None:
        trainer(tmp_path, monitor(metrics, reference=IMAGES)).validate(Still(), DataLoader(PAIRS, 8), verbose=False)

    network = Pixels()
    run(fd=FrechetDistance(network))
    run(distance=FrechetDistance(network), diversity=VendiScore(network))  # by another name, and one without reference
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1
    run(fd=FrechetDistance(network), kid=KernelInceptionDistance(network, subsets=2, subset_size=10))
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 2


# Errors


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("cache", [True, False])
def test_fewer_than_two_images_are_refused(tmp_path: Path, count: int, cache: bool) -> None:
    with pytest.raises(NotEnoughSamples, match=f"has {count} samples and needs 2"):
        measure(tmp_path, TensorDataset(IMAGES[:count]), cache=cache)


def test_no_reference_and_no_validation_loader_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`reference`"):
        trainer(tmp_path, monitor()).fit(Painter(), loaders()[0])


def test_scores_need_no_reference(tmp_path: Path) -> None:
    callback = monitor({"clip": CLIPScore("digits-clip")}, prompts=["a digit"])
    trainer(tmp_path, callback, max_epochs=1).fit(Painter(), loaders()[0])
    assert len(callback.history) == 1


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"no image .* below .*empty"):
        measure(tmp_path, tmp_path / "empty")
