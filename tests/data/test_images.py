"""Batches of every source: shared out exactly, resumed, decoded in workers, with failures counted."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_images
from PIL import Image
from torch import Tensor
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, TensorDataset
from torchvision.transforms.functional import to_pil_image

from lightning_imgmetrics.data.images import ImageBatches, content_hash
from lightning_imgmetrics.data.sources import GeneratedImages
from lightning_imgmetrics.errors import SamplerError, ShapeError, UnknownName, UnreadableImage

IMAGES = random_images(11, 6)


class Pictures(Dataset):
    """Labelled PIL images, as torchvision's datasets hold them."""

    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if index == 4:
            raise OSError("image file is truncated")
        return to_pil_image(IMAGES[index]), index


class Stream(IterableDataset):
    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        return iter([(to_pil_image(image), 0) for image in IMAGES])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, image in enumerate(IMAGES):
        (tmp_path / "images" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        to_pil_image(image).save(tmp_path / "images" / str(i % 2) / f"{i:02}.png")
    return tmp_path / "images"


def listed(batches: ImageBatches) -> list[tuple[int, Tensor]]:
    return [(i, image) for ids, images in batches for i, image in zip(ids or (), images, strict=True)]


def same(left: list[tuple[int, Tensor]], right: list[tuple[int, Tensor]]) -> bool:
    return [i for i, _ in left] == [i for i, _ in right] and all(
        torch.equal(a, b) for (_, a), (_, b) in zip(left, right, strict=True)
    )


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_ranks_share_the_source_exactly(folder: Path, size: int, batch_size: int) -> None:
    whole = dict(listed(ImageBatches(folder)))
    parts = [listed(ImageBatches(folder, batch_size, None, rank, size)) for rank in range(size)]
    assert sorted(i for part in parts for i, _ in part) == list(range(11))
    for rank, part in enumerate(parts):
        assert [i for i, _ in part] == list(range(rank, 11, size))
        assert all(torch.equal(image, whole[i]) for i, image in part)


@pytest.mark.parametrize("start", [0, 1, 2, 3, 9])
@pytest.mark.parametrize("rank", [0, 1])
def test_a_resumed_run_is_the_tail_of_the_full_one(folder: Path, start: int, rank: int) -> None:
    calls: list[int] = []

    def generate(ids: Any) -> Tensor:
        calls.extend(ids)
        return IMAGES[list(ids)]

    for source in (folder, IMAGES, DataLoader(TensorDataset(IMAGES)), GeneratedImages(generate, 11)):
        full = listed(ImageBatches(source, 2, None, rank, 2))
        calls.clear()
        assert same(listed(ImageBatches(source, 2, None, rank, 2, start=start)), full[2 * start :])
    assert calls == list(range(rank, 11, 2))[2 * start :]  # what is skipped is not made
    batches = [(IMAGES[:4], 0), (IMAGES[4:8], 0), (IMAGES[8:], 0)]
    assert len(list(ImageBatches(batches, start=start))) == max(0, 3 - start)


def test_skipped_images_are_not_read(folder: Path) -> None:
    (folder / "0" / "00.png").write_bytes(b"")
    assert len(listed(ImageBatches(folder, 1, start=1))) == 10


def archives(folder: Path, tmp_path: Path) -> list[Path]:
    np.save(tmp_path / "a.npy", torch.cat([IMAGES[::2], IMAGES[1::2]]).numpy())  # in the order of the folder
    packed = [Path(shutil.make_archive(str(tmp_path / kind), kind, folder)) for kind in ("zip", "tar", "gztar")]
    return [*packed, tmp_path / "a.npy"]


def test_workers_read_what_one_process_reads(folder: Path, tmp_path: Path) -> None:
    alone = listed(ImageBatches(folder, 2, None, 1, 2))
    for source in archives(folder, tmp_path):
        for number in (0, 2):
            assert same(listed(ImageBatches(source, 2, None, 1, 2, num_workers=number, prefetch=1)), alone)


def test_open_sources_go_to_spawned_workers(folder: Path, tmp_path: Path) -> None:
    expected = torch.stack([image for _, image in listed(ImageBatches(folder))])
    sources = []
    for path in archives(folder, tmp_path):
        batches = ImageBatches(path, 4)
        list(batches)  # opens the file in this process
        assert len(pickle.dumps(batches)) < 3000  # neither handles nor pixels
        assert torch.equal(pickle.loads(pickle.dumps(batches))._images[5], expected[5])
        sources.append(batches._images)
    loader = DataLoader(ConcatDataset(sources), num_workers=1, multiprocessing_context="spawn")
    assert torch.equal(torch.cat([images for _, images in ImageBatches(loader, 8)]), expected.repeat(4, 1, 1, 1))
    for source in sources:
        assert torch.equal(source[5], expected[5])


def test_sizes_decide_between_a_tensor_and_a_list(folder: Path) -> None:
    images = [images for _, images in ImageBatches(folder, 4)]
    assert [tuple(x.shape) for x in images] == [(4, 3, 6, 6), (4, 3, 6, 6), (3, 3, 6, 6)]
    assert all(x.dtype == torch.uint8 for x in images)
    pinned = [x.is_pinned() for _, x in ImageBatches(folder, pin_memory=True) if isinstance(x, Tensor)]
    assert pinned == [torch.cuda.is_available()]
    Image.new("RGB", (1, 1)).save(folder / "0" / "00.png")
    first = next(iter(ImageBatches(folder, 4)))[1]
    assert [tuple(x.shape) for x in first] == [(3, 1, 1), *[(3, 6, 6)] * 3]


def test_names_and_total(folder: Path) -> None:
    batches = ImageBatches(folder, world_size=2, rank=1)
    assert batches.total == 11
    assert batches.names([0, 6]) == ["0/00.png", "1/01.png"]
    assert ImageBatches(IMAGES).names([3]) == ["3"]
    paths = [folder / "0" / "00.png", str(folder / "1" / "01.png")]
    assert ImageBatches(paths).names([1]) == [(folder / "1" / "01.png").as_posix()]
    assert same(listed(ImageBatches(paths)), [(0, IMAGES[0]), (1, IMAGES[1])])
    stream = ImageBatches(iter(IMAGES.split(3)))
    assert stream.total is None
    assert stream.names([2]) == ["2"]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_left_out_and_noted(folder: Path, workers: int) -> None:
    (folder / "0" / "02.png").write_bytes(b"")
    (folder / "1" / "05.png").write_text("not found")
    batches = ImageBatches(folder, 3, max_failed=2, num_workers=workers)
    seen = []
    for ids, images in batches:
        assert ids is not None
        assert len(ids) == len(images)
        seen += list(ids)
        assert torch.equal(images[0], IMAGES[int(batches.names(ids)[0][2:4])])  # ids stay with their images
        assert len(batches.failures) == (2 if seen[-1] >= 7 else 1)  # while iterating
    assert seen == [0, 2, 3, 4, 5, 6, 7, 9, 10]
    for _ in range(2):
        assert [tuple(f)[:2] for f in batches.failures] == [(1, "0/02.png"), (8, "1/05.png")]
        assert batches.failures[0].reason == "the file is empty"
        list(batches)  # begins to count anew
    for rank, bad in ((0, 8), (1, 1)):
        batches = ImageBatches(folder, 3, None, rank, 2, max_failed=2, num_workers=workers)
        assert [i for i, _ in listed(batches)] == [i for i in range(rank, 11, 2) if i != bad]
        assert [f.id for f in batches.failures] == [bad]


def test_too_many_unreadable_images_are_an_error(folder: Path) -> None:
    bad = sorted(folder.rglob("*.png"))[:5]
    for path in bad:
        path.write_bytes(b"")
    with pytest.raises(UnreadableImage, match=r"of 11 .* allows 0: '0/00.png' \(id 0\): the file is empty; '0/02"):
        list(ImageBatches(folder))
    for allowed in (4, 0.4, 4.0):
        with pytest.raises(UnreadableImage, match=r"^5 of 11 .* allows 4: .*; \.\.\.$"):
            list(ImageBatches(folder, max_failed=allowed))
    for allowed in (5, 0.46):
        assert len(listed(ImageBatches(folder, 2, max_failed=allowed))) == 6  # a whole batch may fail


def test_unreadable_items_of_a_users_dataset() -> None:
    batches = ImageBatches(Pictures(), 3, max_failed=1)
    assert same(listed(batches), [(i, IMAGES[i]) for i in range(11) if i != 4])
    assert batches.failures == [(4, "4", "image file is truncated")]
    loader = DataLoader(Pictures(), collate_fn=lambda items: [[image for image, _ in items]])
    assert [ids for ids, _ in ImageBatches(loader, 3, max_failed=0.1)] == [range(3), [3, 5], range(6, 9), range(9, 11)]
    with pytest.raises(OSError, match=r"^image file is truncated$"):  # no failure is allowed: the error itself
        list(ImageBatches(loader))


def test_alpha_reaches_every_source(tmp_path: Path) -> None:
    image = Image.new("RGBA", (2, 2), (9, 9, 9, 0))
    image.save(tmp_path / "a.png")
    for source in (tmp_path, [image], [tmp_path / "a.png"], GeneratedImages(lambda ids: [image], 1, alpha="white")):
        assert listed(ImageBatches(source, alpha="white"))[0][1].unique().tolist() == [255]
    with pytest.raises(UnknownName, match="`alpha`"):
        ImageBatches(tmp_path, alpha="keep")


def test_generated_images_are_a_source() -> None:
    seen = []

    def generate(ids: Any) -> list[Tensor]:
        seen.append(list(ids))
        return [IMAGES[i].float() / 255 for i in ids]

    source = GeneratedImages(generate, 7)
    parts = [listed(ImageBatches(source, 2, None, rank, 2)) for rank in (0, 1)]
    assert seen == [[0, 2], [4, 6], [1, 3], [5]]
    assert all(torch.equal(image, IMAGES[i].float() / 255) for part in parts for i, image in part)
    assert torch.equal(source[3], IMAGES[3].float() / 255)
    with pytest.raises(SamplerError, match="one image for each of 4 ids, got 3"):
        list(ImageBatches(GeneratedImages(lambda ids: IMAGES[:3], 4)))
    with pytest.raises(ValueError, match="`n` must be at least 1"):
        GeneratedImages(generate, 0)


def test_a_stream_has_no_ids_and_no_shares() -> None:
    for source in (Stream(), DataLoader(Stream(), 4, collate_fn=lambda items: [[x for x, _ in items]])):
        assert [ids for ids, _ in ImageBatches(source, 4)] == [None] * 3
        with pytest.raises(ShapeError, match="iterable dataset"):
            list(ImageBatches(source, 4, world_size=2))


def test_nothing_moves_the_global_random_state(folder: Path) -> None:
    before = torch.get_rng_state()
    content = content_hash(ImageBatches(folder, 3), (0.0, 1.0))
    assert torch.equal(content, content_hash(ImageBatches(IMAGES.flip(0), 2), (0.0, 1.0)))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"num_workers": -1}, {"start": -1}, {"max_failed": -0.1}, {"max_failed": 1.5}, {"rank": 1}],
)
def test_arguments_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"`{next(iter(wrong))}` must"):
        ImageBatches(IMAGES, **wrong)
