"""CLIPScore against its definition in transformers, on tiny random CLIP and SigLIP checkpoints in the public layout."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch
from conftest import random_images
from helpers.checkpoints import LENGTH, SPECIAL, WORDS, saved, word_tokenizer
from PIL import Image
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import (
    AutoImageProcessor,
    AutoModel,
    AutoTokenizer,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from lightning_imgmetrics import CLIPScore, FrechetDistance, clip_score

TEXTS = ["a photo of the red cat", "the small dog", "blue house by the lake", "a green cat"]
LONG = "a photo of the small red cat by the blue house of a green dog by the lake"
KINDS = ["clip", "siglip"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checkpoint folders by kind; CLIP of non-square-safe preprocessing (resize, crop), SigLIP resizing to a square."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**sizes, "vocab_size": len(SPECIAL + WORDS), "max_position_embeddings": LENGTH}
    text |= {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "projection_dim": 12, "projection_size": 16}
    vision = {**sizes, "image_size": 16, "patch_size": 8, "projection_dim": 12}
    made = {
        "clip": (
            CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)),
            CLIPImageProcessor(size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}),
        ),
        "siglip": (
            SiglipModel(SiglipConfig(text_config=text, vision_config=vision)),
            SiglipImageProcessor(size={"height": 16, "width": 16}),
        ),
    }
    paths = {}
    for kind, (model, image_processor) in made.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for name, parameter in model.named_parameters():  # the usual initial weights do not tell images apart
                if "norm" not in name:
                    parameter.data.normal_(std=3 if "patch_emb" in name or "token_emb" in name else 0.4)
        paths[kind] = saved(tmp_path_factory.mktemp(kind), model, image_processor, word_tokenizer(bos=kind == "clip"))
    return paths


class Reference:
    """The definition: towers, processor and tokenizer of transformers, one input at a time."""

    def __init__(self, folder: str) -> None:
        self.model = AutoModel.from_pretrained(folder).eval()
        self.processor = AutoImageProcessor.from_pretrained(folder)
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.siglip = self.model.config.model_type == "siglip"

    @torch.no_grad()
    def __call__(self, x: Tensor | str) -> Tensor:
        if isinstance(x, str):
            ids = self.tokenizer(x)["input_ids"]
            if len(ids) > LENGTH:  # by hand: the last token that fits is the end-of-text token
                ids = [*ids[: LENGTH - 1], ids[-1]]
            ids = ids + [0] * (LENGTH - len(ids)) if self.siglip else ids
            out = self.model.text_model(input_ids=torch.tensor([ids])).pooler_output
            return (out if self.siglip else self.model.text_projection(out))[0]
        image = Image.fromarray(x.permute(1, 2, 0).numpy())
        out = self.model.vision_model(self.processor(image, return_tensors="pt").pixel_values).pooler_output
        return (out if self.siglip else self.model.visual_projection(out))[0]

    def scores(self, source: list, target: list) -> Tensor:
        pairs = zip(source, target, strict=True)
        return 100 * torch.stack([cosine_similarity(self(s), self(t), dim=0) for s, t in pairs]).double()


def inputs(kind: str, seed: int) -> Tensor | list[str]:
    return random_images(4, 16, seed) if kind == "image" else (TEXTS if seed else TEXTS[::-1])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("source", ["image", "text"])
@pytest.mark.parametrize("target", ["image", "text"])
def test_modalities(folders: dict[str, str], kind: str, source: str, target: str) -> None:
    x, y = inputs(source, 0), inputs(target, 1)
    expected = Reference(folders[kind]).scores(list(x), list(y))
    assert expected.std() > 0.1  # the checkpoint does tell its inputs apart
    metric = CLIPScore(folders[kind])
    metric.update(x, y)
    torch.testing.assert_close(metric.scores()[1].sort()[0], expected.sort()[0], rtol=1e-5, atol=1e-4)
    assert metric.compute().item() == pytest.approx(max(expected.mean().item(), 0), abs=1e-4)
    assert clip_score(x, y, folders[kind]) == metric.compute()


@pytest.mark.parametrize("kind", KINDS)
def test_mixed_sizes_lists_and_single_inputs(folders: dict[str, str], kind: str) -> None:
    images = [random_images(1, size, i)[0] for i, size in enumerate([16, (24, 40), (40, 24), 16])]
    expected = Reference(folders[kind]).scores(images, TEXTS)
    whole, single, pil = (CLIPScore(folders[kind]) for _ in range(3))
    whole.update(images, TEXTS)
    ids = torch.arange(4)
    for i, (image, text) in enumerate(zip(images, TEXTS, strict=True)):
        single.update(image, text, ids=ids[i : i + 1])
    pil.update([Image.fromarray(x.permute(1, 2, 0).numpy()) for x in images], TEXTS)
    # Resizing 8-bit images: torchvision's tensors and Pillow's images may differ by a rounding.
    torch.testing.assert_close(single.scores()[1], expected, rtol=0, atol=0.5)
    torch.testing.assert_close(single.compute(), whole.compute(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(pil.compute(), whole.compute(), rtol=1e-6, atol=1e-6)


def test_float_images_are_the_same_images(folders: dict[str, str]) -> None:
    images = random_images(4, 16)
    expected = clip_score(images, TEXTS, folders["clip"])
    assert clip_score(images.float() / 255, TEXTS, folders["clip"]) == expected


def test_the_floor_is_applied_to_the_mean(folders: dict[str, str]) -> None:
    reference = Reference(folders["clip"])
    texts, images = [text for text in TEXTS for _ in range(6)], random_images(24, 16)
    expected = reference.scores(list(images), texts)
    below, above = expected < 0, expected > 0
    assert below.any()
    assert above.any()
    metric = CLIPScore(folders["clip"])
    metric.update(images[below], [t for t, b in zip(texts, below, strict=True) if b])
    assert metric.compute() == 0
    metric.reset()
    ranked = expected.argsort(descending=True)
    order = ranked[[0, 1, int(above.sum())]]  # positive on average, one negative
    metric.update(images[order], [texts[i] for i in order])
    assert expected[order].mean() > 0 > expected[order].min()
    assert metric.compute().item() == pytest.approx(expected[order].mean().item(), abs=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_long_prompts_keep_their_end(folders: dict[str, str], kind: str) -> None:
    """As the tokenizer truncated by hand; without its end-of-text token a text pools elsewhere."""
    images, texts = random_images(4, 16), [LONG, TEXTS[1], TEXTS[3], LONG + " a cat"]
    expected = Reference(folders[kind]).scores(list(images), texts)
    metric = CLIPScore(folders[kind])
    metric.update(images, texts, ids=range(4))
    torch.testing.assert_close(metric.scores()[1], expected, rtol=1e-5, atol=1e-4)
    assert metric.result().details["truncated_fraction"] == 0.5
    metric.update(images, TEXTS, ids=range(4, 8))  # TEXTS[0] is 6 words: with both ends it just fits
    assert metric.result().details["truncated_fraction"] == 0.25


def test_a_text_that_just_fits_is_not_truncated(folders: dict[str, str]) -> None:
    for words, truncated in ((LENGTH - 2, 0.0), (LENGTH - 1, 1.0)):
        metric = CLIPScore(folders["clip"])
        metric.update(random_images(1, 16), " ".join(WORDS[:words]))
        assert metric.result().details["truncated_fraction"] == truncated


def test_callable_model(folders: dict[str, str]) -> None:
    def mine() -> tuple[CLIPModel, CLIPProcessor]:
        processor = CLIPProcessor(
            CLIPImageProcessor.from_pretrained(folders["clip"]), AutoTokenizer.from_pretrained(folders["clip"])
        )
        return CLIPModel.from_pretrained(folders["clip"]), processor

    images = random_images(4, 16)
    assert clip_score(images, TEXTS, mine) == clip_score(images, TEXTS, folders["clip"])
    assert "mine" in str(CLIPScore(mine).signature())


def test_images_against_a_folder_of_weights(folders: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A hub id is looked up below IMGMETRICS_WEIGHTS first."""
    folder = Path(folders["clip"])
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", str(folder.parent))
    images = random_images(2, 16)
    assert clip_score(images, TEXTS[:2], folder.name) == clip_score(images, TEXTS[:2], folders["clip"])


@pytest.mark.parametrize("kind", KINDS)
def test_frechet_distance_takes_the_projected_embedding(folders: dict[str, str], kind: str) -> None:
    real, fake = random_images(40, 16, 1), random_images(50, 16, 2)
    reference = Reference(folders[kind])
    x, y = (torch.stack([reference(image) for image in images]).double() for images in (real, fake))
    gap = x.mean(0) - y.mean(0)
    values = torch.linalg.eigvals(x.T.cov() @ y.T.cov())
    expected = gap @ gap + x.T.cov().trace() + y.T.cov().trace() - 2 * values.sqrt().real.sum()
    metric = FrechetDistance(folders[kind])
    metric.update(real, real=True)
    metric.update(fake, real=False)
    torch.testing.assert_close(metric.compute(), expected, rtol=1e-4, atol=0)


def test_digits_clip_knows_digits() -> None:
    """Zero-shot accuracy on the digits that it was not trained on: image i is held out when i % 4 == 3."""
    load_digits = pytest.importorskip("sklearn.datasets").load_digits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = load_digits()
    grey = torch.from_numpy(data.images * 255 / 16).round().to(torch.uint8)[3::4, None]
    labels = torch.from_numpy(data.target)[3::4]
    metric = CLIPScore("digits-clip")
    n = len(labels)
    assert n == 449
    scores = []
    for word in ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]:
        metric.reset()
        metric.update(grey, [f"a handwritten {word}"] * n, ids=range(n))
        scores.append(metric.scores()[1])
    accuracy = (torch.stack(scores).argmax(0) == labels).double().mean()
    assert accuracy >= 0.95


def test_digits_clip_is_small() -> None:
    import lightning_imgmetrics

    folder = Path(lightning_imgmetrics.__file__).parent / "models" / "digits_clip"
    assert 0 < sum(file.stat().st_size for file in folder.iterdir()) < 1_000_000
