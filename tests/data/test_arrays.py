"""Arrays, and datasets named by text."""

from __future__ import annotations

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_images
from torchvision.transforms.functional import to_pil_image

from lightning_imgmetrics.data.arrays import ArrayImages
from lightning_imgmetrics.data.images import ImageBatches
from lightning_imgmetrics.data.open import open_images
from lightning_imgmetrics.errors import MissingExtra, ShapeError, UnknownName, UnreadableImage

IMAGES = random_images(5, (4, 6))
LAST, FIRST = IMAGES.permute(0, 2, 3, 1).contiguous().numpy(), IMAGES.numpy()


def png(i: int) -> bytes:
    buffer = io.BytesIO()
    to_pil_image(IMAGES[i]).save(buffer, "PNG")
    return buffer.getvalue()


def check(source: Any, names: list[str]) -> None:
    assert [source.image_name(i) for i in range(len(source))] == names
    for i in (4, 0, 3, 1, 2, 0):
        assert torch.equal(source[i], IMAGES[i])
    with pytest.raises(IndexError):
        source[5]


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("array", [LAST, FIRST, np.asfortranarray(LAST)])
def test_npz(tmp_path: Path, save: Any, array: np.ndarray) -> None:
    path, names = tmp_path / "a.npz", [str(i) for i in range(5)]
    save(path, array, np.arange(5))
    source = open_images(path)
    check(source, names)
    assert isinstance(source, ArrayImages)
    assert source.labels is not None
    assert source.labels.tolist() == [0, 1, 2, 3, 4]
    save(path, samples=array, mean=np.zeros(8))
    check(open_images(path), names)
    np.save(tmp_path / "a.npy", array)
    for other in (tmp_path / "a.npy", array):
        check(open_images(other), names)
    assert open_images(path).labels is None  # type: ignore[attr-defined]


def test_files_are_mapped_and_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", FIRST)
    np.save(tmp_path / "a.npy", FIRST)
    for kind in ("npz", "npy"):
        assert isinstance(ArrayImages(tmp_path / f"a.{kind}")._rows, np.memmap)


def test_grey_arrays() -> None:
    for array in (FIRST[:, :1], LAST[..., :1]):
        assert torch.equal(open_images(array)[2], IMAGES[2, :1].expand(3, -1, -1))


BAD_ARRAYS = {
    "either axis": (np.zeros((2, 3, 8, 3), np.uint8), ShapeError, "either axis could be the channels"),
    "no axis": (np.zeros((2, 8, 8, 4), np.uint8), ShapeError, "no axis can be the channels"),
    "float": (FIRST / 255, ShapeError, "must be uint8 .* got float64"),
    "three axes": (FIRST[:, 0], ShapeError, r"uint8|arr_0"),
    "no image": (FIRST[:0], ShapeError, r"no image in|cannot mmap|arr_0"),
    "objects": (np.array([{"a": 1}], object), UnreadableImage, "(?i)pickle|Python objects"),
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
@pytest.mark.parametrize("kind", ["npy", "npz", "compressed"])
def test_arrays_that_are_refused(tmp_path: Path, case: str, kind: str) -> None:
    array, error, message = BAD_ARRAYS[case]
    path = tmp_path / ("a.npy" if kind == "npy" else "a.npz")
    {"npy": np.save, "npz": np.savez, "compressed": np.savez_compressed}[kind](path, array)  # type: ignore[operator]
    with pytest.raises(error, match=message) as caught:
        open_images(path)
    assert path.name in str(caught.value)


def test_damaged_and_ambiguous_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FIRST)
    np.savez(tmp_path / "a.npz", FIRST)
    for path in (tmp_path / "a.npy", tmp_path / "a.npz"):
        for content in (b"", b"text", path.read_bytes()[:200]):
            path.write_bytes(content)
            with pytest.raises(UnreadableImage, match=r"a\.np. cannot be read as an array"):
                open_images(path)
    np.savez(tmp_path / "b.npz", a=FIRST, b=FIRST)
    with pytest.raises(ShapeError, match=r"`arr_0` or one array with four axes, got \{'a': .*'b'"):
        open_images(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", FIRST, np.arange(3))
    with pytest.raises(ShapeError, match="`arr_1` must hold 5 labels"):
        open_images(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", FIRST, np.array([None] * 5))
    with pytest.raises(UnreadableImage, match=r"d\.npz .*(?i:pickle)"):
        open_images(tmp_path / "d.npz")


# Named datasets


def test_torchvision(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, n in (("train", 3), ("t10k", 2)):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(struct.pack(">4i", 2051, n, 4, 6) + FIRST[:n, 0].tobytes())
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(struct.pack(">2i", 2049, n) + bytes(n))
    for split, n in (("train", 3), ("test", 2)):
        source = open_images(f"torchvision:MNIST:{split}:{tmp_path}")
        assert len(source) == n
        assert torch.equal(source[1], IMAGES[1, :1].expand(3, -1, -1))
    assert len(open_images("torchvision:FakeData::")) == 1000
    for wrong, error, message in (
        (f"torchvision:MNIST:{tmp_path}", ShapeError, "written 'torchvision:CLASS:SPLIT:ROOT'"),
        (f"torchvision:MNIST:val:{tmp_path}", ShapeError, "SPLIT of MNIST must be 'train' or 'test'"),
        (f"torchvision:SVHN::{tmp_path}", ShapeError, "SPLIT of SVHN must be one of its splits"),
        ("torchvision:FakeData:train:", ShapeError, "SPLIT of FakeData must be empty"),
        (f"torchvision:MNST:train:{tmp_path}", UnknownName, "`CLASS` must be one of .*'MNIST'"),
        (f"torchvision:CIFAR10:train:{tmp_path}", UnreadableImage, "Dataset not found"),
    ):
        with pytest.raises(error, match=message):
            open_images(wrong)


def test_hugging_face(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the extra `datasets` is not installed", exc_type=ImportError)
    content = [png(i) for i in range(5)]
    table = {"picture": [{"bytes": x, "path": None} for x in content[:4]] + [{"bytes": b"", "path": None}]}
    kinds = datasets.Features({"picture": datasets.Image()})
    data = datasets.Dataset.from_dict(table, features=kinds)
    data.save_to_disk(str(tmp_path / "one"))
    datasets.DatasetDict({"val": data}).save_to_disk(str(tmp_path / "many"))
    data.to_parquet(str(tmp_path / "files" / "train.parquet"))
    for name, split in (("one", "train"), ("many", "val"), ("files", "train")):
        batches = ImageBatches(f"hf:{tmp_path / name}:{split}:picture", max_failed=1, num_workers=2 * (name == "one"))
        ((ids, images),) = batches
        assert ids == [0, 1, 2, 3]
        assert torch.equal(torch.as_tensor(images), IMAGES[:4])
        assert [(f.id, f.name) for f in batches.failures] == [(4, "4")]
        assert batches.failures[0].reason.endswith("the file is empty")
    assert torch.equal(open_images(data, image_key="picture")[2], IMAGES[2])
    with pytest.raises(UnknownName, match="`split` must be one of 'val'; got 'test'"):
        open_images(f"hf:{tmp_path / 'many'}:test:picture")
    with pytest.raises(UnknownName, match="`column` must be one of 'picture'; got 'image'"):
        open_images(f"hf:{tmp_path / 'many'}:val:image")


def test_hugging_face_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("hf:name", "hf:name:split", "hf:name:split:", "hf:a:b:c:d"):
        with pytest.raises(ShapeError, match="written 'hf:NAME:SPLIT:COLUMN'"):
            open_images(text)
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(MissingExtra, match=r"lightning-imgmetrics\[datasets\]"):
        open_images("hf:name:split:column")
