"""The detector and the colors of its objects against their definitions, on tiny checkpoints with random weights."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import random_images
from helpers.checkpoints import bpe_clip, bpe_tokenizer
from helpers.detectors import detections_of, save_detector
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPImageProcessor, CLIPModel, MaskFormerConfig, MaskFormerForInstanceSegmentation, SwinConfig

from lightning_imgmetrics.errors import (
    MissingWeights,
    NonFiniteFeatures,
    ShapeError,
    UnknownName,
    ValueRangeError,
    WeightsMismatch,
)
from lightning_imgmetrics.models.detection.detections import CLASSES, COLORS, Box, Detection, RunLengths
from lightning_imgmetrics.models.detection.mask2former import MASK2FORMER, DetectorExtractor
from lightning_imgmetrics.models.encoders.clip import ClipExtractor
from lightning_imgmetrics.prompt_benchmarks.geneval.colors import CLIP_L14, ColorClassifier, object_crop

CPU = torch.device("cpu")
SIZES = [(64, 64), (40, 90), (64, 64), (130, 50)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_detector(tmp_path_factory.mktemp("detector"))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return bpe_clip(tmp_path_factory.mktemp("clip"), act="quick_gelu", length=77)


def images(sizes: list[tuple[int, int]] = SIZES) -> list[Tensor]:
    return [random_images(1, size, seed)[0] for seed, size in enumerate(sizes)]


def tight(mask: Tensor) -> Box:
    ys, xs = np.nonzero(mask.numpy())
    return (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)


def require_like(found: list[Detection], expected: list[tuple[float, int, Tensor]]) -> None:
    assert len(found) == len(expected) > 20
    scores = torch.tensor([score for score, _, _ in expected])
    assert [d.score for d in found] == pytest.approx(scores.tolist(), rel=1e-4, abs=1e-7)
    # Of two that are as good as equal, either may come first.
    alone = [i for i, s in enumerate(scores) if ((scores - s).abs() < 5e-4 * s).sum() == 1]
    assert len(alone) > 10
    for i in alone:
        mask, logits = found[i].mask, expected[i][2]
        assert isinstance(mask, Tensor)
        assert mask.dtype == torch.bool
        assert mask.shape == logits.shape
        assert found[i].label == CLASSES[expected[i][1]]
        assert found[i].box == tight(mask)
        assert torch.equal(mask[logits.abs() > 1e-3], logits[logits.abs() > 1e-3] > 0)
        assert (logits.abs() > 1e-3).double().mean() > 0.95


def test_detections_are_those_of_the_definition(checkpoint: str) -> None:
    extractor = DetectorExtractor(checkpoint, resize="processor")
    for image, found in zip(images(), extractor.detect(images(), CPU), strict=True):
        require_like(found, detections_of(checkpoint, image))
        assert len({d.box for d in found}) > 1


def test_coco_resizes_the_short_side_to_800(checkpoint: str) -> None:
    image = images([(30, 20)])[0]
    found = DetectorExtractor(checkpoint).detect([image], CPU)[0]
    require_like(found, detections_of(checkpoint, image, (1216, 800)))  # whole multiples of 32


def test_padding_is_cut_off(tmp_path: Path) -> None:
    folder = save_detector(tmp_path, pad_size={"height": 128, "width": 128})
    image = images([(50, 70)])[0]
    found = DetectorExtractor(folder, resize="processor").detect([image], CPU)[0]
    require_like(found, detections_of(folder, image, padded=128))


def require_equal(one: list[list[Detection]], other: list[list[Detection]]) -> None:
    for a, b in zip(one, other, strict=True):
        assert [(d.label, d.box) for d in a] == [(d.label, d.box) for d in b]
        assert [d.score for d in a] == pytest.approx([d.score for d in b], rel=1e-4)
        assert all(torch.equal(x.mask, y.mask) for x, y in zip(a, b, strict=True))  # type: ignore[arg-type]


def test_images_of_any_sizes_are_as_one_by_one(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = DetectorExtractor(checkpoint, resize="processor", min_score=0.05)
    alone = [extractor.detect([image], CPU)[0] for image in images()]
    assert {len(some) for some in alone} != {0}
    require_equal(extractor.detect(images(), CPU), alone)
    monkeypatch.setattr(DetectorExtractor, "max_batch", 1)
    require_equal(extractor.detect(images()[::-1], CPU), alone[::-1])
    assert extractor.detect([], CPU) == []


def test_float_images_are_taken_as_eight_bits(checkpoint: str) -> None:
    extractor = DetectorExtractor(checkpoint, resize="processor", min_score=0.05)
    require_equal(extractor.detect([x / 255 for x in images()], CPU), extractor.detect(images(), CPU))


@pytest.mark.parametrize("least", [0.02, 0.1, 0.3])
def test_a_least_score_leaves_the_rest_as_it_is(checkpoint: str, least: float) -> None:
    everything = DetectorExtractor(checkpoint, resize="processor")
    whole = everything.detect(images(), CPU)
    assert any(d.score <= least for some in whole for d in some)
    expected = [[d for d in some if d.score > least] for some in whole]
    require_equal(replace(everything, min_score=least).detect(images(), CPU), expected)


def test_the_layer_of_pixels_is_the_images(checkpoint: str) -> None:
    batches = [torch.stack(images()[::2]), images()[1][None] / 255]
    extractor = DetectorExtractor(checkpoint)
    features = extractor(batches, ("pixels",), CPU)["pixels"]
    assert [x.dtype for x in features] == [torch.uint8] * 3
    assert all(torch.equal(x, y) for x, y in zip(features, [images()[0], images()[2], images()[1]], strict=True))
    with pytest.raises(ShapeError, match="no fixed length"):
        extractor.dim("pixels")


def test_checkpoints_of_older_versions_are_read(checkpoint: str, tmp_path: Path) -> None:
    """They store the indices of relative positions, and no norm that the backbone does not use."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "old"))
    tensors = load_file(folder / "model.safetensors")
    unused = [key for key in tensors if "swin.layernorm" in key or key.startswith("criterion")]
    assert len(unused) == 3
    tables = [key for key in tensors if key.endswith("relative_position_bias_table")]
    assert len(tables) == 4
    old = {key: x for key, x in tensors.items() if key not in unused}
    old |= {key.replace("bias_table", "index"): torch.zeros(16, 16, dtype=torch.int64) for key in tables}
    save_file(old, folder / "model.safetensors", metadata={"format": "pt"})
    found = [
        DetectorExtractor(str(path), resize="processor", min_score=0.05).detect(images(), CPU)
        for path in (folder, checkpoint)
    ]
    require_equal(*found)


def test_checkpoints_that_are_refused(checkpoint: str, clip: str, tmp_path: Path) -> None:
    few = save_detector(tmp_path / "few", labels=79)
    with pytest.raises(
        WeightsMismatch, match=r"a Mask2Former of COCO's 80 classes, .* is 'mask2former' with 79 labels"
    ):
        DetectorExtractor(few).detect(images(), CPU)
    with pytest.raises(WeightsMismatch, match="is 'clip' with 2 labels"):
        DetectorExtractor(clip).detect(images(), CPU)
    swin = SwinConfig(embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, out_features=["stage4"])
    other = MaskFormerForInstanceSegmentation(MaskFormerConfig(backbone_config=swin, num_labels=80))
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(WeightsMismatch, match="is 'maskformer' with 80 labels"):
        DetectorExtractor(str(tmp_path / "other")).detect(images(), CPU)
    holed = Path(shutil.copytree(checkpoint, tmp_path / "holed"))
    tensors = load_file(holed / "model.safetensors")
    del tensors["class_predictor.bias"]
    save_file(tensors, holed / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsMismatch, match=r"holed' does not fit its network: keys missing: class_predictor\.bias$"):
        DetectorExtractor(str(holed)).detect(images(), CPU)
    with pytest.raises(MissingWeights, match=f"https://huggingface.co/{MASK2FORMER}"):
        DetectorExtractor().detect(images(), CPU)


def test_arguments_that_are_refused(checkpoint: str) -> None:
    with pytest.raises(UnknownName, match="`resize` must be one of 'coco', 'processor'; got 'square'"):
        DetectorExtractor(checkpoint, resize="square")
    for least in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueRangeError, match=r"`min_score` must lie in \[0, 1\)"):
            DetectorExtractor(checkpoint, min_score=least)


def test_what_is_not_finite_is_no_detection(checkpoint: str, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "nan"))
    tensors = load_file(folder / "model.safetensors")
    tensors["class_predictor.bias"][3] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NonFiniteFeatures, match="NaN or infinity for images"):
        DetectorExtractor(str(folder), resize="processor").detect(images(), CPU)


def test_the_signature_names_what_changes_detections(checkpoint: str) -> None:
    extractor = DetectorExtractor(checkpoint)
    told = extractor.signature()
    assert told["network"] == Path(checkpoint).name
    assert (told["resize"], told["min_score"]) == ("coco", "0")
    for other in (replace(extractor, resize="processor"), replace(extractor, min_score=0.3)):
        assert other.signature() != told
        assert other.key == extractor.key  # one network in memory
    assert replace(extractor, dtype="bfloat16").signature()["dtype"] == "bfloat16"


def test_bfloat16_is_near(checkpoint: str) -> None:
    extractor = DetectorExtractor(checkpoint, resize="processor", dtype="bfloat16")
    found = extractor.detect(images()[:1], CPU)[0]
    expected = detections_of(checkpoint, images()[0])
    assert found[0].score == pytest.approx(expected[0][0], rel=0.2)
    assert found[0].score != pytest.approx(expected[0][0], rel=1e-6)


# Colors


def disc(size: tuple[int, int], center: tuple[int, int], radius: int) -> Tensor:
    y, x = torch.meshgrid(torch.arange(size[0]), torch.arange(size[1]), indexing="ij")
    return (y - center[0]) ** 2 + (x - center[1]) ** 2 <= radius**2


def objects() -> list[Detection]:
    """Objects of an image of 40 x 60 pixels: masked, in runs, without a mask, and beyond its edges."""
    mask = disc((40, 60), (20, 15), 9)
    runs = RunLengths((40, 60), torch.tensor([40 * 30, 40 * 30]))
    return [
        Detection("cat", 0.9, (6, 11, 25, 30), mask),
        Detection("cat", 0.8, (10, 5, 30, 25), runs),
        Detection("dog", 0.8, (3.4, 5.5, 20.6, 24.5)),
        Detection("dog", 0.7, (50, 30, 60, 40), ~mask),
        Detection("cat", 0.6, (0, 0, 60, 40), ~mask),
    ]


def cut(image: Tensor, detection: Detection) -> Image.Image:
    """As the published program does, with Pillow."""
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    mask = detection.pixels()
    if mask is not None:
        picture = Image.composite(picture, Image.new("RGB", picture.size, "#999"), Image.fromarray(mask.numpy()))
    return picture.crop(detection.box)


def test_objects_are_cut_out_as_published() -> None:
    image = random_images(1, (40, 60), seed=3)[0]
    before = image.clone()
    for detection in objects():
        crop = object_crop(image, detection)
        assert crop.dtype == torch.uint8
        assert torch.equal(crop.permute(1, 2, 0), torch.from_numpy(np.array(cut(image, detection))))
    assert torch.equal(image, before)
    assert (object_crop(image, objects()[0])[:, 0, 0] == 0x99).all()


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((-5, -5, 10, 8), (slice(0, 8), slice(0, 10))),
        ((50.2, 30.1, 70, 90), (slice(30, 40), slice(50, 60))),
        ((10, 10, 10.2, 10.3), (slice(10, 11), slice(10, 11))),
        ((70, 50, 80, 60), (slice(39, 40), slice(59, 60))),
    ],
)
def test_a_crop_lies_in_the_image_and_is_not_empty(box: Box, expected: tuple[slice, slice]) -> None:
    image = random_images(1, (40, 60), seed=4)[0]
    assert torch.equal(object_crop(image, Detection("cat", 0.5, box)), image[:, expected[0], expected[1]])


def test_a_mask_of_another_size_is_refused() -> None:
    with pytest.raises(ShapeError, match="the mask of a cat must have the size of its image, 40 x 60, got 60 x 40"):
        object_crop(random_images(1, (40, 60))[0], Detection("cat", 0.5, (0, 0, 9, 9), torch.ones(60, 40).bool()))


@torch.no_grad()
def color_logits(folder: str, image: Tensor, detection: Detection) -> Tensor:
    """The cosines with the 10 colors, of which each is written out; float64."""
    model = CLIPModel.from_pretrained(folder).double().eval()
    tokenizer, processor = bpe_tokenizer(77), CLIPImageProcessor.from_pretrained(folder)
    name = detection.label
    rows = []
    for color in COLORS:
        texts = [f"a photo of a {color} {name}", f"a photo of a {color}-colored {name}", f"a photo of a {color} object"]
        features = [model.get_text_features(**tokenizer(text, return_tensors="pt")).pooler_output[0] for text in texts]
        rows.append(normalize(sum(normalize(x, dim=0) for x in features) / 3, dim=0))  # type: ignore[type-var]
    pixels = processor(images=cut(image, detection), return_tensors="pt")["pixel_values"].double()
    return torch.stack(rows) @ normalize(model.get_image_features(pixel_values=pixels).pooler_output[0], dim=0)


def test_colors_are_those_of_the_definition(clip: str) -> None:
    classifier = ColorClassifier(ClipExtractor(clip))
    found, seen = [], []
    for seed in range(4):
        image = random_images(1, (40, 60), seed=seed)[0]
        image[:, : 10 * seed] = 40 * seed
        expected = [color_logits(clip, image, d) for d in objects()]
        highest = torch.stack(expected).topk(2).values
        assert ((highest[:, 0] - highest[:, 1]) > 1e-5).all()
        seen += [COLORS[int(x.argmax())] for x in expected]
        found += classifier(image, objects(), CPU)
        assert [classifier(image, [d], CPU)[0] for d in objects()] == found[-len(objects()) :]
    assert found == seen
    assert len(set(seen)) > 1
    assert classifier(image, [], CPU) == []


def test_the_default_is_the_published_clip() -> None:
    assert ColorClassifier().clip == ClipExtractor(CLIP_L14)
    assert ColorClassifier().clip.default_layer == "embed"
    assert hash(ColorClassifier()) == hash(ColorClassifier())
