"""Folders and archives: the same images under the same names, and what is refused."""

from __future__ import annotations

import gc
import gzip
import io
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_images
from PIL import Image
from torchvision.transforms.functional import to_pil_image

from lightning_imgmetrics.data.archives import ArchiveImages
from lightning_imgmetrics.data.images import ImageBatches
from lightning_imgmetrics.data.open import open_images
from lightning_imgmetrics.errors import ShapeError, UnknownName, UnreadableImage

IMAGES = random_images(5, (4, 6))
NAMES = ["a-b.png", "a/1.png", "a/b/2.PNG", "a0.png", "z.jpeg.png"]  # in the order of their POSIX paths
MODES = {"zip": "w", "tar": "w", "tar.gz": "w:gz", "tgz": "w:gz"}


def png(i: int) -> bytes:
    buffer = io.BytesIO()
    to_pil_image(IMAGES[i]).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, members: dict[str, bytes]) -> Path:
    """An archive of the kind that the path says, with its members in the order given."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, MODES[path.name.split(".", 1)[1]]) as archive:  # type: ignore[call-overload]
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    return path


OTHERS = {"notes.txt": b"no image", ".hidden/x.png": b"", "a/._1.png": b"shadow", "__MACOSX/a.png": b""}
MEMBERS = {name: png(i) for i, name in enumerate(NAMES)}


def check(source: Any, names: list[str]) -> None:
    assert [source.image_name(i) for i in range(len(source))] == names
    for i in (4, 0, 3, 1, 2, 0):
        assert torch.equal(source[i], IMAGES[i])
    with pytest.raises(IndexError):
        source[5]


def test_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "x.png"  # a folder may end like an image
    for name, content in (OTHERS | dict(reversed(MEMBERS.items()))).items():
        if "__MACOSX" not in name:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
    check(open_images(root), NAMES)
    check(open_images(str(root)), NAMES)
    (root / "a" / "loop").symlink_to(root)
    check(open_images(root), NAMES)
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "link").symlink_to(root / "a")
    linked = open_images(tmp_path / "y")
    assert [linked.image_name(i) for i in range(2)] == ["link/1.png", "link/b/2.PNG"]


@pytest.mark.parametrize("kind", MODES)
def test_an_archive(tmp_path: Path, kind: str) -> None:
    """In any order of members, with "./" before the names, with doubles (the last counts)."""
    members = OTHERS | {"./a-b.png": b"older"} | dict(reversed(MEMBERS.items()))
    source = open_images(pack(tmp_path / f"a.{kind}", members))
    check(source, NAMES)
    assert isinstance(source, ArchiveImages)
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"a.{kind}"]  # nothing is extracted


def test_the_copy_of_a_compressed_tar_goes_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = pack(tmp_path / "a.tgz", MEMBERS)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    source = open_images(path)
    check(source, NAMES)
    assert len(list(tmp_path.iterdir())) == 2
    del source
    gc.collect()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "name", ["../x.png", "a/../../x.png", "/etc/x.png", "..\\x.png", "C:\\x.png", "\\x.png", "../n.txt"]
)
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_a_member_that_climbs_out_is_refused(tmp_path: Path, kind: str, name: str) -> None:
    path = pack(tmp_path / f"a.{kind}", {"good.png": png(0), name: png(1)})
    with pytest.raises(UnreadableImage, match=r"a\.\S+ is refused: member .*[xn]\.(png|txt)' lies outside"):
        open_images(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_link_or_device_in_a_tar_is_refused(tmp_path: Path, kind: bytes, mode: Any) -> None:
    with tarfile.open(tmp_path / "a.tar", mode) as archive:
        member = tarfile.TarInfo("evil.png")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UnreadableImage, match=r"member 'evil\.png' is a link or device"):
        open_images(tmp_path / "a.tar")


def test_a_link_in_a_zip_is_refused(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("evil.png")
    info.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(UnreadableImage, match="link"):
        open_images(tmp_path / "a.zip")


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lightning_imgmetrics.data.archives.LARGEST", 1000)
    for kind in MODES:
        with pytest.raises(UnreadableImage, match=r"member 'b\.png' has 1001 bytes"):
            open_images(pack(tmp_path / f"a.{kind}", {"b.png": bytes(1001)}))


@pytest.mark.parametrize("kind", MODES)
def test_damaged_archives(tmp_path: Path, kind: str) -> None:
    noise = {f"{i}.png": random_images(1, 40, i).numpy().tobytes() for i in range(3)}
    whole = pack(tmp_path / f"a.{kind}", noise).read_bytes()
    for content in (b"", b"no archive", whole[: len(whole) // 2]):
        (tmp_path / f"a.{kind}").write_bytes(content)
        with pytest.raises(UnreadableImage, match=r"a\.\S+ cannot be read as an archive"):
            open_images(tmp_path / f"a.{kind}")


@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
@pytest.mark.parametrize("damage", ["cut", "header"])
def test_a_tar_that_ends_between_members_is_not_a_smaller_tar(tmp_path: Path, kind: str, damage: str) -> None:
    plain = pack(tmp_path / "a.tar", {f"{i}.png": bytes(512) for i in range(3)}).read_bytes()
    content = plain[:2048] if damage == "cut" else plain[:2048] + b"\xff" * 512 + plain[2560:]
    (tmp_path / f"a.{kind}").write_bytes(content if kind == "tar" else gzip.compress(content))
    with pytest.raises(UnreadableImage, match="damaged or cut off at byte 2048"):
        open_images(tmp_path / f"a.{kind}")


def test_a_damaged_member_is_one_unreadable_image(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.zip", MEMBERS)
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        content[archive.getinfo("a0.png").header_offset + 60] ^= 0xFF
    path.write_bytes(content)
    batches = ImageBatches(path, max_failed=1)
    assert [list(ids or ()) for ids, _ in batches] == [[0, 1, 2, 4]]
    assert batches.failures[0][:2] == (3, "a0.png")


@pytest.mark.parametrize("kind", MODES)
def test_nothing_in_it_is_said(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ShapeError, match=rf"no image \(.png, .*\) in .*a\.{kind}"):
        open_images(pack(tmp_path / f"a.{kind}", OTHERS))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ShapeError, match=rf"no image \(.png, .*\) below {tmp_path}/empty"):
        open_images(tmp_path / "empty")


def test_what_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a")
    for source in (tmp_path / "a.txt", 3, None, {"train": IMAGES}, lambda ids: IMAGES):
        with pytest.raises(UnknownName, match=r"`source` must be one of 'a folder', .*'hf:NAME:SPLIT:COLUMN'"):
            open_images(source)
    with pytest.raises(UnreadableImage, match=r"there is no file or folder .*nowhere"):
        open_images(tmp_path / "nowhere")
    with pytest.raises(ShapeError, match=r"tensor \(n, 3, h, w\), got shape \(3, 4, 6\)"):
        open_images(IMAGES[0])
    assert torch.equal(open_images([Image.fromarray(IMAGES[0].permute(1, 2, 0).numpy())])[0], IMAGES[0])
    assert torch.equal(open_images(list(IMAGES.permute(0, 2, 3, 1).numpy()))[3], IMAGES[3])
