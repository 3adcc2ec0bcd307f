"""The decoding rule: pixel values of every kind of file, and one error for all that is no image."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_images
from PIL import Image, ImageOps

from lightning_imgmetrics.data.decode import decode
from lightning_imgmetrics.errors import UnknownName, UnreadableImage

PIXELS = random_images(1, (5, 7))[0]
PICTURE = Image.fromarray(PIXELS.permute(1, 2, 0).numpy())


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grey(values: torch.Tensor) -> torch.Tensor:
    return values.to(torch.uint8).expand(3, -1, -1)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_files_keep_their_pixels(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(encoded(PICTURE, kind))
    with path.open("rb") as file:
        for source in (path, str(path), path.read_bytes(), file, PICTURE, {"bytes": None, "path": str(path)}):
            image = decode(source)
            assert image.dtype == torch.uint8
            assert image.is_contiguous()
            assert torch.equal(image, PIXELS)


def test_jpeg_is_what_pillow_decodes() -> None:
    content = encoded(PICTURE, "JPEG", quality=90)
    assert torch.equal(decode(content), torch.from_numpy(np.array(Image.open(io.BytesIO(content)))).permute(2, 0, 1))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    values = torch.tensor([[0, 128, 129, 257], [300, 32768, 65406, 65535]])
    expected = grey((values.double() / 257).round())
    assert expected[0].tolist() == [[0, 0, 1, 1], [1, 128, 254, 255]]
    assert torch.equal(decode(encoded(Image.fromarray(values.numpy().astype(np.uint16)), kind)), expected)
    assert torch.equal(decode(Image.fromarray(values.numpy().astype(np.int32))), expected)
    assert torch.equal(decode(Image.fromarray(values.numpy().astype(">u2"))), expected)


@pytest.mark.parametrize("low", [-1, 65536])
def test_grey_beyond_16_bits_is_refused(low: int) -> None:
    with pytest.raises(UnreadableImage, match=r"grey values must lie in 0\.\.65535"):
        decode(encoded(Image.fromarray(np.array([[0, low]], np.int32)), "TIFF"))
    with pytest.raises(UnreadableImage, match="float pixels"):
        decode(Image.fromarray(np.array([[0.5, 1.0]], np.float32)))


def test_grey_bits_and_palettes_are_expanded() -> None:
    values = PIXELS[0]
    single = Image.fromarray(values.numpy())
    assert torch.equal(decode(encoded(single)), grey(values))
    assert torch.equal(decode(encoded(single.point(lambda v: 255 * (v > 99)).convert("1"))), grey(255 * (values > 99)))
    palette = PICTURE.quantize(8)
    assert torch.equal(decode(encoded(palette, "GIF")), decode(palette.convert("RGB")))


def test_cmyk_is_converted() -> None:
    image = PICTURE.convert("CMYK")
    assert torch.equal(decode(encoded(image, "TIFF")), decode(image.convert("RGB")))


@pytest.mark.parametrize("alpha", ["drop", "white", "black"])
def test_alpha(alpha: str) -> None:
    opacity = torch.arange(35).reshape(5, 7) * 7
    rgba = torch.cat([PIXELS, opacity[None].to(torch.uint8)]).permute(1, 2, 0).numpy()
    share, background = opacity.double() / 255, 255.0 if alpha == "white" else 0.0
    blended = (PIXELS.double() * share + background * (1 - share)).round().to(torch.uint8)
    expected = PIXELS if alpha == "drop" else blended
    assert torch.equal(decode(encoded(Image.fromarray(rgba)), alpha=alpha), expected)
    la = Image.merge("LA", (Image.fromarray(rgba[..., 0]), Image.fromarray(rgba[..., 3])))
    assert torch.equal(decode(encoded(la), alpha=alpha), expected[:1].expand(3, -1, -1))


@pytest.mark.parametrize(("alpha", "hole"), [("drop", [9, 8, 7]), ("white", [255] * 3), ("black", [0] * 3)])
@pytest.mark.parametrize("transparency", [1, b"\xff\x00"])
def test_transparent_palette_entries(alpha: str, hole: list[int], transparency: int | bytes) -> None:
    image = Image.fromarray(np.array([[0, 1]], np.uint8))
    image.putpalette([1, 2, 3, 9, 8, 7])
    decoded = decode(encoded(image, transparency=transparency), alpha=alpha)
    assert decoded[:, 0].T.tolist() == [[1, 2, 3], hole]


def test_unknown_alpha() -> None:
    with pytest.raises(UnknownName, match="`alpha` must be one of 'drop', 'white', 'black'; got 'grey'"):
        decode(PICTURE, alpha="grey")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_exif_orientation(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(PICTURE, kind, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    assert torch.equal(decode(content), torch.from_numpy(np.array(upright)).permute(2, 0, 1))
    assert decode(content).shape == ((3, 5, 7) if orientation < 5 else (3, 7, 5))
    wide = Image.fromarray(np.arange(6, dtype=np.uint16).reshape(2, 3) * 9000)
    assert decode(encoded(wide, kind, exif=exif)).shape == ((3, 2, 3) if orientation < 5 else (3, 3, 2))


def test_damaged_exif_of_a_sound_image() -> None:
    content = encoded(PICTURE, "JPEG", exif=b"Exif\x00\x00MM\x00*\xff\xff\xff\xff garbage")
    assert decode(content).shape == PIXELS.shape


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation(kind: str) -> None:
    frames = [Image.new("RGB", (4, 4), color) for color in ((255, 0, 0), (0, 255, 0))]
    options = {"lossless": True} if kind == "WEBP" else {}
    content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert decode(content)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("size", [(1, 1), (20000, 20), (20, 20000)])
def test_extreme_but_sound_sizes(size: tuple[int, int]) -> None:
    assert decode(encoded(Image.new("RGB", size, (1, 2, 3)))).shape == (3, size[1], size[0])


def test_decompression_bomb(monkeypatch: pytest.MonkeyPatch) -> None:
    content = encoded(Image.new("L", (100, 100)))
    for limit in (9000, 4000):  # Pillow warns of the one and refuses the other
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(UnreadableImage, match="10000 pixels"):
            decode(content)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
NO_IMAGES = {
    "zero bytes": (b"", "the file is empty"),
    "text": (b"<html>404 not found</html>", "not an image in a known format"),
    "PostScript, which Pillow would have run": (POSTSCRIPT, "not an image in a known format"),
    "truncated JPEG": (encoded(Image.fromarray(np.array(PICTURE).repeat(40, 0)), "JPEG")[:-100], "truncated"),
    "truncated PNG": (encoded(PICTURE)[:60], "."),
    "truncated GIF": (encoded(PICTURE, "GIF")[:20], "."),
    "damaged PNG": (encoded(PICTURE).replace(b"IDAT", b"IDAX"), "."),
}


@pytest.mark.parametrize("case", NO_IMAGES)
def test_what_is_no_image(tmp_path: Path, case: str) -> None:
    content, message = NO_IMAGES[case]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for source in (content, path):
        with pytest.raises(UnreadableImage, match=message) as caught:
            decode(source)
        assert "0x" not in str(caught.value)  # reasons are the same in every run
    with pytest.raises(UnreadableImage, match=r"^the name: "):
        decode(path, name="the name")
    with pytest.raises(UnreadableImage, match=r"a\.png: "):
        decode(path)


def test_damage_anywhere_is_an_unreadable_image_or_an_image() -> None:
    """Whatever byte is wrong, nothing but UnreadableImage is raised, and no warning."""
    for kind in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        content = encoded(PICTURE, kind)
        for position in range(0, len(content), max(1, len(content) // 60)):
            damaged = bytearray(content)
            damaged[position] ^= 0xFF
            try:
                assert decode(bytes(damaged)).shape[0] == 3
            except UnreadableImage:
                continue
