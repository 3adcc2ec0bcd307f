"""ImageReward against its definition, in float64, on a small random checkpoint in the layout of the public file."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Worlds, random_images
from PIL import Image
from tokenizers import Tokenizer, models
from torch import Tensor, nn
from transformers import BertTokenizer, BlipVisionModel, PreTrainedTokenizerFast
from transformers.models.blip.modeling_blip_text import BlipTextModel

from lightning_imgmetrics import MetricSuite
from lightning_imgmetrics.errors import MissingWeights, ShapeError, UnknownName, WeightsMismatch
from lightning_imgmetrics.metrics.text_image.preference import ImageReward
from lightning_imgmetrics.models.base.resize import short_side_rounded
from lightning_imgmetrics.models.scorers.imagereward import ImageRewardExtractor, blip_configs

SHELF = os.environ.get("IMGMETRICS_WEIGHTS", "")  # each test has none
SIZE, PATCH = 32, 8
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).double()[:, None, None]
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).double()[:, None, None]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "green", "cat", "dog", "house", "by", "the"]
VOCABULARY += ["lake", "[", "]", "sep"]
PROMPTS = ["a red cat", "the dog by the lake", "a house", "green"]
LONG = " ".join((["a", "red", "cat", "by", "the", "green", "house"] * 300)[:2000])


def shapes(
    vision: int, depth: int, patch: int, tokens: int, text: int, layers: int, inner: int, words: int, positions: int
) -> dict[str, tuple[int, ...]]:
    """The names and shapes of `ImageReward.pt`, for towers of any size."""

    def affine(name: str, out: int, d: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (out, d), f"{name}.bias": (out,)}

    def norm(name: str, d: int) -> dict[str, tuple[int, ...]]:
        return {f"{name}.weight": (d,), f"{name}.bias": (d,)}

    tower = "blip.visual_encoder"
    found: dict[str, tuple[int, ...]] = {
        f"{tower}.cls_token": (1, 1, vision),
        f"{tower}.pos_embed": (1, tokens, vision),
        f"{tower}.patch_embed.proj.weight": (vision, 3, patch, patch),
        f"{tower}.patch_embed.proj.bias": (vision,),
        **norm(f"{tower}.norm", vision),
    }
    for i in range(depth):
        block = f"{tower}.blocks.{i}"
        found |= norm(f"{block}.norm1", vision) | norm(f"{block}.norm2", vision)
        found |= affine(f"{block}.attn.qkv", 3 * vision, vision) | affine(f"{block}.attn.proj", vision, vision)
        found |= affine(f"{block}.mlp.fc1", 4 * vision, vision) | affine(f"{block}.mlp.fc2", vision, 4 * vision)
    tower = "blip.text_encoder"
    found[f"{tower}.embeddings.position_ids"] = (1, positions)
    found[f"{tower}.embeddings.word_embeddings.weight"] = (words, text)
    found[f"{tower}.embeddings.position_embeddings.weight"] = (positions, text)
    found |= norm(f"{tower}.embeddings.LayerNorm", text)
    for i in range(layers):
        layer = f"{tower}.encoder.layer.{i}"
        for kind, source in (("attention", text), ("crossattention", vision)):
            found |= affine(f"{layer}.{kind}.self.query", text, text)
            found |= affine(f"{layer}.{kind}.self.key", text, source) | affine(
                f"{layer}.{kind}.self.value", text, source
            )
            found |= affine(f"{layer}.{kind}.output.dense", text, text) | norm(f"{layer}.{kind}.output.LayerNorm", text)
        found |= affine(f"{layer}.intermediate.dense", inner, text) | affine(f"{layer}.output.dense", text, inner)
        found |= norm(f"{layer}.output.LayerNorm", text)
    found |= affine("blip.vision_proj", 256, vision) | affine("blip.text_proj", 256, text)
    for place, out, d in ((0, 1024, text), (2, 128, 1024), (4, 64, 128), (6, 16, 64), (7, 1, 16)):
        found |= affine(f"mlp.layers.{place}", out, d)
    return found


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """A checkpoint with 3 heads in its image tower and 2 in its text tower."""
    g = torch.Generator().manual_seed(0)
    wanted = shapes(192, 2, PATCH, (SIZE // PATCH) ** 2 + 1, 128, 2, 96, len(VOCABULARY) + 2, 40)
    made = {}
    for key, shape in wanted.items():
        x = torch.randn(shape, generator=g)
        if key.endswith("position_ids"):
            x = torch.arange(40)[None]
        elif "norm" in key.lower():
            x = 1 + 0.2 * x if key.endswith("weight") else 0.2 * x
        elif len(shape) > 1 and "embed" not in key:
            x = x * 1.5 / math.sqrt(shape[-1])
        elif key.endswith("bias"):
            x = 0.1 * x
        made[key] = x
    return made


@pytest.fixture(scope="module")
def weights(tensors: dict[str, Tensor], tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("imagereward") / "ImageReward.pt"
    torch.save(tensors, path)
    return str(path)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY))
    saved = folder / "bert-base-uncased"
    BertTokenizer.from_pretrained(folder).save_pretrained(saved)
    return str(saved)


class Definition:
    """The formulas of BLIP's towers and of the head, one pair at a time, on the tensors of the file."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors = {key: x.double() for key, x in tensors.items()}

    def affine(self, name: str, x: Tensor) -> Tensor:
        return x @ self.tensors[f"{name}.weight"].T + self.tensors[f"{name}.bias"]

    def norm(self, name: str, x: Tensor, eps: float) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        unit = centred / (centred.square().mean(-1, keepdim=True) + eps).sqrt()
        return unit * self.tensors[f"{name}.weight"] + self.tensors[f"{name}.bias"]

    @staticmethod
    def gelu(x: Tensor) -> Tensor:
        return x * (1 + torch.erf(x / math.sqrt(2))) / 2

    @staticmethod
    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        heads = zip(q.split(64, 1), k.split(64, 1), v.split(64, 1), strict=True)
        return torch.cat([((a @ b.T / 8).exp() / (a @ b.T / 8).exp().sum(1, keepdim=True)) @ c for a, b, c in heads], 1)

    def image_tokens(self, pixels: Tensor) -> Tensor:
        tower = "blip.visual_encoder"
        patches = pixels.unfold(1, PATCH, PATCH).unfold(2, PATCH, PATCH).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
        x = patches @ self.tensors[f"{tower}.patch_embed.proj.weight"].flatten(1).T
        x = x + self.tensors[f"{tower}.patch_embed.proj.bias"]
        x = torch.cat([self.tensors[f"{tower}.cls_token"][0], x]) + self.tensors[f"{tower}.pos_embed"][0]
        for i in range(2):
            block = f"{tower}.blocks.{i}"
            qkv = self.affine(f"{block}.attn.qkv", self.norm(f"{block}.norm1", x, 1e-6))
            x = x + self.affine(f"{block}.attn.proj", self.attend(*qkv.chunk(3, 1)))
            hidden = self.gelu(self.affine(f"{block}.mlp.fc1", self.norm(f"{block}.norm2", x, 1e-6)))
            x = x + self.affine(f"{block}.mlp.fc2", hidden)
        return self.norm(f"{tower}.norm", x, 1e-6)

    def reward(self, pixels: Tensor, ids: list[int]) -> float:
        """`ids` without padding: what is masked has no weight."""
        tower, image = "blip.text_encoder", self.image_tokens(pixels)
        x = self.tensors[f"{tower}.embeddings.word_embeddings.weight"][ids]
        x = x + self.tensors[f"{tower}.embeddings.position_embeddings.weight"][: len(ids)]
        x = self.norm(f"{tower}.embeddings.LayerNorm", x, 1e-12)
        for i in range(2):
            layer = f"{tower}.encoder.layer.{i}"
            for kind in ("attention", "crossattention"):
                source = x if kind == "attention" else image
                q = self.affine(f"{layer}.{kind}.self.query", x)
                k, v = (self.affine(f"{layer}.{kind}.self.{part}", source) for part in ("key", "value"))
                out = self.affine(f"{layer}.{kind}.output.dense", self.attend(q, k, v))
                x = self.norm(f"{layer}.{kind}.output.LayerNorm", x + out, 1e-12)
            hidden = self.gelu(self.affine(f"{layer}.intermediate.dense", x))
            x = self.norm(f"{layer}.output.LayerNorm", x + self.affine(f"{layer}.output.dense", hidden), 1e-12)
        x = x[0]
        for place in (0, 2, 4, 6, 7):
            x = self.affine(f"mlp.layers.{place}", x)
        return (x.item() - 0.16717362830052426) / 1.0333394966054072


def ids_of(prompt: str) -> list[int]:
    """[CLS], at most 33 words, [SEP]."""
    return [2, *(VOCABULARY.index(word) for word in prompt.split()[:33]), 3]


def pixels_of(image: Image.Image) -> Tensor:
    """The definition's preprocessing, by PIL; rows before columns, as Pillow did it until 13."""
    short = min(image.size)
    width, height = (int(SIZE * length / short) for length in image.size)
    image = image.resize((width, image.height), Image.Resampling.BICUBIC).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    left, top = round((width - SIZE) / 2), round((height - SIZE) / 2)
    image = image.crop((left, top, left + SIZE, top + SIZE))
    return (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - MEAN) / STD


def pil(x: Tensor) -> Image.Image:
    return Image.fromarray(x.permute(1, 2, 0).numpy())


def scores(metric: ImageReward) -> Tensor:
    return metric.scores()[1]


def test_the_reward_is_its_definition(weights: str, tokenizer: str, tensors: dict[str, Tensor]) -> None:
    images = random_images(4, SIZE)
    definition = Definition(tensors)
    expected = [definition.reward(pixels_of(pil(x)), ids_of(p)) for x, p in zip(images, PROMPTS, strict=True)]
    swapped = [definition.reward(pixels_of(pil(x)), ids_of(p)) for x, p in zip(images, PROMPTS[::-1], strict=True)]
    metric = ImageReward(weights=weights, tokenizer=tokenizer)
    metric.update(images=images, prompts=PROMPTS, ids=range(4))
    assert scores(metric).tolist() == pytest.approx(expected, abs=1e-5)
    assert np.std(expected) > 0.1  # the checkpoint tells its inputs apart
    assert np.abs(np.subtract(expected, swapped)).min() > 0.01  # by their prompts, too
    assert metric.compute().item() == pytest.approx(np.mean(expected), abs=1e-5)
    result = metric.result()
    assert result.higher_is_better is True
    assert result.details["truncated_fraction"] == 0
    order = np.argsort([-definition.reward(pixels_of(pil(x)), ids_of("a red cat")) for x in images])
    ranks = metric.ranks(images=images, prompt="a red cat")
    assert [int((ranks == i).nonzero()) for i in range(1, 5)] == order.tolist()
    assert metric.result() == result  # ranks left no trace


@pytest.mark.parametrize("shape", [(32, 32), (20, 50), (50, 20), (97, 64), (33, 47), (16, 3200), (3200, 16), (5, 5)])
def test_images_are_resized_as_by_pil(shape: tuple[int, int]) -> None:
    image = random_images(1, shape, seed=shape[0])
    x = (short_side_rounded(image.float(), SIZE) / 255 - MEAN) / STD
    levels = (x[0] - pixels_of(pil(image[0]))).abs() * STD * 255
    assert levels.max() < 1.01  # halves may round to either side
    assert levels.mean() < 0.005
    assert x.shape == (1, 3, SIZE, SIZE)


@pytest.mark.parametrize("shape", [(16, 3200), (3200, 16), (40, 61)])
def test_oblong_images_score_as_their_middle(
    weights: str, tokenizer: str, tensors: dict[str, Tensor], shape: tuple[int, int]
) -> None:
    image = random_images(1, shape, seed=3)
    metric = ImageReward(weights=weights, tokenizer=tokenizer)
    metric.update(images=image, prompts="a red cat")
    expected = Definition(tensors).reward(pixels_of(pil(image[0])), ids_of("a red cat"))
    assert metric.compute().item() == pytest.approx(expected, abs=2e-3)  # a few pixels differ by one level


def test_any_batch_size_and_form_gives_the_same_scores(
    weights: str, tokenizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, prompts = random_images(16, SIZE), [PROMPTS[i % 4] for i in range(16)]
    whole, single, parts, suite = (ImageReward(weights=weights, tokenizer=tokenizer) for _ in range(4))
    whole.update(images=images, prompts=prompts, ids=range(16))
    for i in range(16):
        single.update(images=[pil(images[i])], prompts=prompts[i : i + 1], ids=[i])
    monkeypatch.setattr(ImageRewardExtractor, "max_batch", 5)
    parts.update(images=(images.float() / 255 + 0.0015).clamp(max=1), prompts=prompts, ids=range(16))
    MetricSuite({"reward": suite}).update(images, prompts=prompts, ids=range(16))
    for metric in (single, parts, suite):
        torch.testing.assert_close(metric.scores(), whole.scores(), rtol=0, atol=1e-5)


def test_images_of_mixed_sizes_keep_their_order(weights: str, tokenizer: str) -> None:
    images = [random_images(1, size, i)[0] for i, size in enumerate([32, (24, 40), 32, (90, 40), (24, 40)])]
    prompts = [*PROMPTS, "a dog"]
    whole, single = (ImageReward(weights=weights, tokenizer=tokenizer) for _ in range(2))
    whole.update(images=images, prompts=prompts, ids=range(5))
    for i, (image, prompt) in enumerate(zip(images, prompts, strict=True)):
        single.update(images=image, prompts=prompt, ids=[i])
    torch.testing.assert_close(whole.scores(), single.scores(), rtol=0, atol=1e-5)
    assert scores(whole).std() > 0.05


def test_opacity_is_dropped(weights: str, tokenizer: str) -> None:
    rgb = random_images(1, SIZE)[0]
    rgba = Image.merge("RGBA", [*pil(rgb).split(), Image.new("L", (SIZE, SIZE), 90)])
    metrics = [ImageReward(weights=weights, tokenizer=tokenizer) for _ in range(2)]
    for metric, image in zip(metrics, (rgb, rgba), strict=True):
        metric.update(images=[image], prompts="a cat")
    assert metrics[0].compute() == metrics[1].compute()


def test_16_bit_grey_is_scaled_to_8(weights: str, tokenizer: str) -> None:
    grey = random_images(1, SIZE)[0, 0]
    deep = Image.fromarray(grey.numpy().astype(np.uint16) * 257)
    metrics = [ImageReward(weights=weights, tokenizer=tokenizer) for _ in range(2)]
    for metric, image in zip(metrics, (grey.expand(3, -1, -1), deep), strict=True):
        metric.update(images=[image], prompts="a cat")
    assert metrics[0].compute() == metrics[1].compute()


def test_texts_are_cut_at_35_tokens_and_counted(weights: str, tokenizer: str, tensors: dict[str, Tensor]) -> None:
    image, exact = random_images(1, SIZE), " ".join(LONG.split()[:33])
    assert len(LONG.split()) == 2000
    expected = Definition(tensors).reward(pixels_of(pil(image[0])), ids_of(exact))
    metric = ImageReward(weights=weights, tokenizer=tokenizer)
    metric.update(images=image.expand(3, -1, -1, -1), prompts=[LONG, exact, f"{exact} dog"], ids=range(3))
    assert scores(metric).tolist() == pytest.approx([expected] * 3, abs=1e-5)
    assert metric.result().details["truncated_fraction"] == pytest.approx(2 / 3)


def test_special_tokens_in_a_text_are_letters(weights: str, tokenizer: str, tensors: dict[str, Tensor]) -> None:
    image = random_images(1, SIZE)
    metric = ImageReward(weights=weights, tokenizer=tokenizer)
    metric.update(images=image, prompts="A cat[SEP]dog")
    expected = Definition(tensors).reward(pixels_of(pil(image[0])), ids_of("a cat [ sep ] dog"))
    assert metric.compute().item() == pytest.approx(expected, abs=1e-5)


def test_bad_input(weights: str, tokenizer: str) -> None:
    metric, images = ImageReward(weights=weights, tokenizer=tokenizer), random_images(2, SIZE)
    with pytest.raises(ValueError, match=r"`prompts\[1\]` is empty: imagereward"):
        metric.update(images=images, prompts=["a cat", " "])
    with pytest.raises(ValueError, match=r"`prompts\[0\]` is empty"):
        metric.ranks(images=images, prompt="")
    with pytest.raises(ShapeError, match="got 1 for 2 images"):
        metric.update(images=images, prompts=["a cat"])
    with pytest.raises(UnknownName, match="dtype"):
        ImageReward(weights=weights, tokenizer=tokenizer, dtype="float16")
    with pytest.raises(ShapeError, match="not feature vectors"):
        metric.extractor.dim("tokens")


def test_bfloat16_is_declared_and_close(weights: str, tokenizer: str) -> None:
    images = random_images(4, SIZE)
    exact, fast = (ImageReward(weights=weights, tokenizer=tokenizer, dtype=d) for d in ("float32", "bfloat16"))
    for metric in (exact, fast):
        metric.update(images=images, prompts=PROMPTS, ids=range(4))
    difference = (scores(exact) - scores(fast)).abs()
    assert 0 < difference.max() < 0.2 * scores(exact).std()
    assert "bfloat16" in str(fast.signature())
    assert "bfloat16" not in str(exact.signature())
    assert {"metric": "imagereward", "network": "ImageReward-v1.0"}.items() <= exact.signature().fields.items()


# Files


def test_the_published_file_has_the_published_geometry() -> None:
    public = shapes(1024, 24, 16, 197, 768, 12, 3072, 30524, 512)
    vision, text = blip_configs(public, "ImageReward.pt")
    assert (vision.hidden_size, vision.intermediate_size, vision.num_hidden_layers) == (1024, 4096, 24)
    assert (vision.num_attention_heads, vision.image_size, vision.patch_size) == (16, 224, 16)
    assert (vision.hidden_act, vision.layer_norm_eps) == ("gelu", 1e-6)
    assert (text.vocab_size, text.hidden_size, text.encoder_hidden_size, text.intermediate_size) == (
        30524,
        768,
        1024,
        3072,
    )
    assert (text.num_hidden_layers, text.num_attention_heads, text.max_position_embeddings) == (12, 12, 512)
    assert (text.hidden_act, text.layer_norm_eps, text.pad_token_id, text.is_decoder) == ("gelu", 1e-12, 0, True)
    with torch.device("meta"):
        towers = nn.ModuleList([BlipVisionModel(vision), BlipTextModel(text, add_pooling_layer=False)])
    unused = ("mlp.", "blip.vision_proj", "blip.text_proj", "blip.text_encoder.embeddings.position_ids")
    sizes = {key: math.prod(shape) for key, shape in public.items()}
    in_towers = sum(size for key, size in sizes.items() if not key.startswith(unused))
    assert sum(p.numel() for p in towers.parameters()) == in_towers
    assert 4 * sum(sizes.values()) == pytest.approx(1.79e9, rel=3e-3)  # the size of the file


def test_keys_that_do_not_fit_are_listed_by_the_names_of_the_file(
    tensors: dict[str, Tensor], tokenizer: str, tmp_path: Path
) -> None:
    changed = {**tensors, "blip.itm_head.bias": torch.zeros(2), "mlp.layers.4.weight": torch.zeros(64, 127)}
    del changed["blip.text_encoder.encoder.layer.1.crossattention.self.key.bias"]
    del changed["blip.visual_encoder.blocks.0.norm1.weight"]
    torch.save(changed, tmp_path / "changed.pt")
    with pytest.raises(WeightsMismatch) as caught:
        ImageReward(weights=str(tmp_path / "changed.pt"), tokenizer=tokenizer).update(
            images=random_images(1, SIZE), prompts="a cat"
        )
    told = str(caught.value)
    assert "missing: blip.text_encoder.encoder.layer.1.crossattention.self.key.bias" in told
    assert ", blip.visual_encoder.blocks.0.norm1.weight;" in told
    assert "unexpected: blip.itm_head.bias;" in told
    assert "mlp.layers.4.weight is (64, 127) and must be (64, 128)" in told
    assert "vision_proj" not in told


@pytest.mark.parametrize(
    ("key", "shape", "match"),
    [
        ("blip.visual_encoder.pos_embed", None, "keys missing: blip.visual_encoder.pos_embed"),
        ("blip.visual_encoder.patch_embed.proj.weight", (192, 192), r"patch_embed.proj.weight is \(192, 192\)"),
        ("blip.text_encoder.embeddings.word_embeddings.weight", (19, 100), r"widths \(192, 100\), .* multiples of 64"),
        ("blip.visual_encoder.pos_embed", (1, 16, 192), r"pos_embed is \(1, 16, 192\) and must be \(1, 10, 192\)"),
    ],
)
def test_sizes_that_cannot_be_are_refused(
    tensors: dict[str, Tensor], tokenizer: str, tmp_path: Path, key: str, shape: tuple[int, ...] | None, match: str
) -> None:
    changed = {k: x for k, x in tensors.items() if k != key}
    changed |= {} if shape is None else {key: torch.zeros(shape)}
    torch.save(changed, tmp_path / "changed.pt")
    with pytest.raises(WeightsMismatch, match=match):
        ImageRewardExtractor(str(tmp_path / "changed.pt"), tokenizer).network(torch.device("cpu"))


def test_wrapped_half_precision_and_safetensors_files_are_read(
    tensors: dict[str, Tensor], weights: str, tokenizer: str, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    torch.save({"state_dict": {f"module.{key}": x for key, x in tensors.items()}}, tmp_path / "wrapped.pt")
    save_file(tensors, tmp_path / "plain.safetensors")
    torch.save({key: x.half() if x.is_floating_point() else x for key, x in tensors.items()}, tmp_path / "half.pt")
    values = []
    for path in (weights, tmp_path / "wrapped.pt", tmp_path / "plain.safetensors", tmp_path / "half.pt"):
        metric = ImageReward(weights=str(path), tokenizer=tokenizer)
        metric.update(images=random_images(2, SIZE), prompts=PROMPTS[:2])
        values.append(metric.compute().item())
    assert values[0] == values[1] == values[2]
    assert values[3] == pytest.approx(values[0], abs=0.02)
    assert values[3] != values[0]


def test_damaged_files_are_refused(tensors: dict[str, Tensor], tokenizer: str, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(tensors, tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(WeightsMismatch, match=r"cut.safetensors cannot be read as the weights of ImageReward"):
        ImageRewardExtractor(str(tmp_path / "cut.safetensors"), tokenizer).load()


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.trace}",)


def test_a_file_that_would_run_code_is_refused(tensors: dict[str, Tensor], tokenizer: str, tmp_path: Path) -> None:
    trace = tmp_path / "was-run"
    torch.save({**tensors, "payload": Payload(trace)}, tmp_path / "evil.pt")
    with pytest.raises(WeightsMismatch, match=r"evil.pt cannot be read"):
        ImageRewardExtractor(str(tmp_path / "evil.pt"), tokenizer).load()
    assert not trace.exists()


def test_tokenizers_that_are_not_berts_are_refused(weights: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCABULARY, "one", "two", "three"]))
    BertTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path / "large")
    with pytest.raises(WeightsMismatch, match=r"must be BERT's, with at most 19 tokens, got .*large' with 20"):
        ImageRewardExtractor(weights, str(tmp_path / "large")).load()
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "cat": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=core, pad_token="[UNK]").save_pretrained(tmp_path / "plain")
    with pytest.raises(WeightsMismatch, match=r"`tokenizer` must be BERT's, got .*plain' with 2"):
        ImageRewardExtractor(weights, str(tmp_path / "plain")).prefetch()
    with pytest.raises(
        MissingWeights, match=r"the tokenizer 'nobody/nothing' cannot .*IMGMETRICS_WEIGHTS/nobody/nothing"
    ):
        ImageRewardExtractor(weights, "nobody/nothing").prefetch()


def test_published_names_are_looked_up_on_the_shelf(
    weights: str, tokenizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "none"))
    extractor = ImageRewardExtractor()
    with pytest.raises(MissingWeights, match=r"bert-base-uncased"):
        extractor.prefetch()
    (tmp_path / "bert-base-uncased").symlink_to(tokenizer)
    with pytest.raises(MissingWeights, match=rf"THUDM/ImageReward/resolve/main/ImageReward.pt.*{tmp_path}/THUDM/"):
        extractor.prefetch()
    assert extractor.local_path() is None
    assert extractor.signature_fields()["weights"] == "main"
    (tmp_path / "THUDM/ImageReward").mkdir(parents=True)
    (tmp_path / "THUDM/ImageReward/ImageReward.pt").symlink_to(weights)
    assert extractor.local_path() == tmp_path / "THUDM/ImageReward/ImageReward.pt"
    assert ImageRewardExtractor(tokenizer="nobody/nothing").local_path() is None  # it cannot be loaded
    assert (
        ImageRewardExtractor(tokenizer="nobody/nothing").signature_fields()["weights"]
        == extractor.signature_fields()["weights"]
        != "main"
    )
    named, given = ImageReward(), ImageReward(weights=weights, tokenizer=tokenizer)
    for metric in (named, given):
        metric.update(images=random_images(2, SIZE), prompts=PROMPTS[:2])
    assert named.compute() == given.compute()
    assert named.signature() == given.signature()


def test_tokenizers_of_one_name_and_other_content_are_told_apart(weights: str, tokenizer: str, tmp_path: Path) -> None:
    rules = []
    for name in ("one", "same", "other"):
        folder = tmp_path / name / "bert-base-uncased"
        shutil.copytree(tokenizer, folder)
        if name == "other":
            swapped = (folder / "tokenizer.json").read_text().replace('"cat"', '"tac"')
            (folder / "tokenizer.json").write_text(swapped)
        rules.append(ImageRewardExtractor(weights, str(folder)).signature_fields())
    assert rules[0] == rules[1] != rules[2]
    assert all(rule["tokenizer"].startswith("bert-base-uncased@") for rule in rules)


def shard(rank: int, size: int, weights: str, tokenizer: str) -> tuple[float, int, float]:
    """Ranks hold 5, 0 and 2 of seven samples, or all but one and one."""
    images = random_images(7, SIZE)
    bounds = {1: [0, 7], 2: [0, 6, 7], 3: [0, 5, 5, 7]}[size]
    metric = ImageReward(weights=weights, tokenizer=tokenizer)
    for i in range(bounds[rank], bounds[rank + 1]):
        metric.update(images=images[i : i + 1], prompts=[LONG if i == 6 else PROMPTS[i % 4]], ids=[i])
    result = metric.result()
    return result.value, result.n, result.details["truncated_fraction"]


def test_any_split_over_ranks_gives_the_same_number(worlds: Worlds, weights: str, tokenizer: str) -> None:
    alone = worlds(1, shard, weights, tokenizer)[0]
    assert alone[1:] == (7, 1 / 7)
    for size in (2, 3):
        assert worlds(size, shard, weights, tokenizer) == [alone] * size


@pytest.mark.skipif(
    not (SHELF and (Path(SHELF) / "THUDM/ImageReward/ImageReward.pt").is_file()),
    reason="IMGMETRICS_WEIGHTS has no THUDM/ImageReward/ImageReward.pt, or was not set",
)
def test_published_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The vector of the repository's README, whose assets/images/{1,2,3,4}.webp lie beside the file."""
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", SHELF)
    folder = Path(SHELF) / "THUDM/ImageReward/assets/images"
    images = [Image.open(folder / f"{i}.webp") for i in range(1, 5)]
    prompt = "a painting of an ocean with clouds and birds, day time, low depth field effect"
    metric = ImageReward()
    metric.update(images=images, prompts=prompt, ids=range(4))
    expected = [0.5811622738838196, 0.2745276093482971, -1.4131819009780884, -2.029569625854492]
    assert scores(metric).tolist() == pytest.approx(expected, abs=0.02)
    assert metric.ranks(images=images, prompt=prompt).tolist() == [1, 2, 3, 4]
