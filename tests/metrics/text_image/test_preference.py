"""Scores of CLIPs against their definitions: open_clip's towers, resizing and tokens written out in plain torch."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import random_images
from helpers import checkpoints as made
from helpers.checkpoints import LENGTH, MEAN, SIDE, STD
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import conv2d, cosine_similarity, gelu, layer_norm, normalize
from torchvision.transforms import v2
from transformers import AutoTokenizer, CLIPModel, SiglipModel

from lightning_imgmetrics import BioCLIPScore, CLIPScore, HPSv2, PickScore, SigLIPScore
from lightning_imgmetrics.errors import MissingWeights, UnknownName, WeightsMismatch
from lightning_imgmetrics.models.encoders.clip import ClipExtractor

CPU = torch.device("cpu")
TEXTS = ["a photo of the red cat", "the small dog", "blue house by the lake", "a green cat"]
TWO = made.bpe_vocabulary()[0]
BOS, EOS = TWO["<|startoftext|>"], TWO["<|endoftext|>"]


def ids_of(text: str) -> list[int]:
    """Words that are one token each, between the two ends; cut before the second."""
    words = [TWO[f"{word}</w>"] for word in text.split()]
    return [BOS, *words[: LENGTH - 2], EOS]


class OpenClip:
    """The forward pass of open_clip's CLIP, of its own state dict."""

    def __init__(self, tensors: dict[str, Tensor], *, act: str = "gelu", heads: tuple[int, int] = (2, 2)):
        self.w = tensors
        self.text_heads, self.image_heads = heads
        self.act = gelu if act == "gelu" else lambda x: x * (1.702 * x).sigmoid()

    def norm(self, x: Tensor, name: str) -> Tensor:
        return layer_norm(x, x.shape[-1:], self.w[f"{name}.weight"], self.w[f"{name}.bias"], 1e-5)

    def linear(self, x: Tensor, name: str, sep: str = ".") -> Tensor:
        return x @ self.w[f"{name}{sep}weight"].T + self.w[f"{name}{sep}bias"]

    def blocks(self, x: Tensor, prefix: str, heads: int, causal: bool) -> Tensor:
        n, d = x.shape
        mask = torch.full((n, n), -torch.inf).triu(1) if causal else torch.zeros(n, n)
        for i in range(2):
            name = f"{prefix}transformer.resblocks.{i}"
            joint = self.linear(self.norm(x, f"{name}.ln_1"), f"{name}.attn.in_proj", "_")
            q, k, v = (part.unflatten(1, (heads, d // heads)).transpose(0, 1) for part in joint.split(d, 1))
            mixed = ((q @ k.mT / (d // heads) ** 0.5 + mask).softmax(-1) @ v).transpose(0, 1).flatten(1)
            x = x + self.linear(mixed, f"{name}.attn.out_proj")
            inner = self.act(self.linear(self.norm(x, f"{name}.ln_2"), f"{name}.mlp.c_fc"))
            x = x + self.linear(inner, f"{name}.mlp.c_proj")
        return x

    def text(self, ids: list[int]) -> Tensor:
        x = self.w["token_embedding.weight"][ids] + self.w["positional_embedding"][: len(ids)]
        x = self.norm(self.blocks(x, "", self.text_heads, causal=True), "ln_final")
        return x[ids.index(max(ids))] @ self.w["text_projection"]

    def image(self, x: Tensor) -> Tensor:
        patches = conv2d(x[None], self.w["visual.conv1.weight"], stride=8)[0].flatten(1).T
        x = torch.cat([self.w["visual.class_embedding"][None], patches]) + self.w["visual.positional_embedding"]
        x = self.blocks(self.norm(x, "visual.ln_pre"), "visual.", self.image_heads, causal=False)
        return self.norm(x[0], "visual.ln_post") @ self.w["visual.proj"]

    def cosines(self, images: list[Tensor], texts: list[str]) -> Tensor:
        pairs = zip(images, texts, strict=True)
        return torch.stack([cosine_similarity(self.image(x), self.text(ids_of(t)), dim=0) for x, t in pairs]).double()

    @property
    def scale(self) -> float:
        return float(self.w["logit_scale"].exp())


def standard(x: Tensor, mean: list[float] = MEAN, std: list[float] = STD) -> Tensor:
    return v2.Normalize(mean, std)(x.float() / 255 if x.dtype == torch.uint8 else x)


def squared(antialias: bool) -> Callable[[Tensor], Tensor]:
    """HPSv2's: a float tensor, its short side, its middle."""
    bicubic = v2.InterpolationMode.BICUBIC
    steps = [v2.Resize(SIDE, interpolation=bicubic, antialias=antialias), v2.CenterCrop(SIDE)]
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), *steps, v2.Normalize(MEAN, STD)])


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=tolerance, atol=tolerance)


def scores(metric: Any, images: Any, texts: Any) -> Tensor:
    metric.update(images=images, prompts=texts, ids=range(len(images)))
    return metric.scores()[1]


# The key map


@pytest.mark.parametrize("act", ["gelu", "quick_gelu"])
@pytest.mark.parametrize("layout", ["file", "folder"])
def test_networks_of_open_clip(tmp_path: Path, layout: str, act: str) -> None:
    """6 heads of 8 where open_clip's usual width of a head would give none."""
    model = made.bpe_clip_model(act=act, vision=48)
    tensors = made.open_clip_tensors(model)
    if layout == "file":
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": x for k, x in tensors.items()}}, tmp_path / "net.pt")
        extractor = ClipExtractor(made.bpe_clip(tmp_path / "hf", act=act, vision=48), weights=str(tmp_path / "net.pt"))
        (tmp_path / "hf" / "model.safetensors").unlink()  # configuration and tokenizer are all that is asked of it
    else:
        extractor = ClipExtractor(made.open_clip_folder(tmp_path / "oc", model))
    reference = OpenClip(tensors, act=act, heads=(2, 6))
    images = random_images(4, SIDE)
    pixels = extractor.prepare(images)
    torch.testing.assert_close(pixels, torch.stack([standard(x) for x in images]), rtol=1e-6, atol=1e-6)
    found = extractor([images], ("embed",), CPU)["embed"]
    expected = torch.stack([reference.image(x) for x in pixels])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    text, truncated = extractor.embed_text(TEXTS, CPU)
    torch.testing.assert_close(text, torch.stack([reference.text(ids_of(t)) for t in TEXTS]), rtol=1e-5, atol=1e-5)
    assert truncated == 0
    with torch.no_grad():
        before = model.get_text_features(input_ids=torch.tensor([ids_of(TEXTS[0])])).pooler_output
        seen = model.get_image_features(pixel_values=pixels).pooler_output
    torch.testing.assert_close(text[:1], before, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found, seen, rtol=1e-6, atol=1e-6)
    assert expected.std(0).min() > 0.1  # the checkpoint does tell its inputs apart
    other = OpenClip(tensors, act="gelu" if act == "quick_gelu" else "quick_gelu", heads=(2, 6))
    assert (other.text(ids_of(TEXTS[0])) - text[0]).abs().max() > 1e-3  # and the activations are not alike


def test_every_tensor_of_the_file_is_in_the_network(tmp_path: Path) -> None:
    """Half precision in the file, float32 in the network; nothing is left as it was initialized."""
    model = made.bpe_clip_model()
    halves = {key: x.half() for key, x in made.open_clip_tensors(model).items()}
    torch.save({"state_dict": halves}, tmp_path / "net.pt")
    network = ClipExtractor(made.bpe_clip(tmp_path / "hf"), weights=str(tmp_path / "net.pt")).network(CPU).model
    wanted = {key: x for key, x in model.state_dict().items() if not key.endswith("position_ids")}
    found = dict(network.named_parameters())
    assert set(found) == set(wanted)
    for key, x in wanted.items():
        assert found[key].dtype == torch.float32
        assert torch.equal(found[key], x.half().float()), key


def test_the_end_of_text_need_not_be_the_last_token(tmp_path: Path) -> None:
    """A vocabulary padded to a round number: pooled where the tokenizer ends a text, not at the start of all."""
    model = made.clip_model(vocabulary=len(TWO) + 30, bos=BOS, eos=EOS, act="gelu")
    tensors = made.open_clip_tensors(model)
    found, _ = ClipExtractor(made.open_clip_folder(tmp_path, model)).embed_text(TEXTS, CPU)
    close(found, torch.stack([OpenClip(tensors).text(ids_of(t)) for t in TEXTS]))
    assert (found[0] - found[1]).abs().max() > 0.1


FOREIGN: dict[str, tuple[dict[str, Any], str]] = {
    "timm": ({"vision_cfg": {"timm_model_name": "vit_base"}}, r"two plain transformers, got \{'timm_model_name'"),
    "hf": ({"text_cfg": {"hf_model_name": "roberta-base"}}, r"\{'hf_model_name': 'roberta-base'"),
    "resnet": ({"vision_cfg": {"layers": [3, 4, 6, 3]}}, r"\{'layers': \[3, 4, 6, 3\]\}"),
    "pooling": ({"vision_cfg": {"pool_type": "avg"}}, r"\{'pool_type': 'avg'\}"),
    "last token": ({"text_cfg": {"pool_type": "last"}}, r"\{'pool_type': 'last'\}"),
    "no mask": ({"text_cfg": {"no_causal_mask": True}}, "no_causal_mask"),
    "average": ({"vision_cfg": {"global_average_pool": True}}, "global_average_pool"),
    "epsilon": ({"vision_cfg": {"norm_kwargs": {"eps": 1e-6}}}, "norm_kwargs"),
    "no width": ({"model_cfg": {"embed_dim": None}}, "embed_dim"),
    "squashed": ({"preprocess_cfg": {"resize_mode": "squash"}}, r"preprocessing must be .*'squash'"),
    "bilinear": ({"preprocess_cfg": {"interpolation": "bilinear"}}, r"preprocessing must be .*'bilinear'"),
    "larger": ({"preprocess_cfg": {"size": [2 * SIDE, 2 * SIDE]}}, r"preprocessing must be .*'size': \[32, 32\]"),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_other_networks_of_open_clip_are_refused(tmp_path: Path, case: str) -> None:
    """Also those whose keys and shapes would fit, and whose numbers would be wrong."""
    parts, message = FOREIGN[case]
    folder = made.open_clip_folder(tmp_path, made.bpe_clip_model(), **parts)
    with pytest.raises(WeightsMismatch, match=message):
        BioCLIPScore(folder).update(images=random_images(1, SIDE), prompts="a cat")


def test_what_changes_nothing_is_accepted(tmp_path: Path) -> None:
    parts: dict[str, Any] = {
        "model_cfg": {"init_logit_scale": 2.6, "quick_gelu": False},
        "vision_cfg": {"patch_dropout": 0.5, "pool_type": "tok", "global_average_pool": False},
        "text_cfg": {"pool_type": "argmax", "mlp_ratio": 4},
        "preprocess_cfg": {"size": [SIDE, SIDE], "mode": "RGB", "interpolation": "bicubic", "fill_color": 0},
    }
    model = made.bpe_clip_model()
    found = [
        scores(BioCLIPScore(made.open_clip_folder(tmp_path / name, model, **cfg)), random_images(2, 20), TEXTS[:2])
        for name, cfg in (("plain", {}), ("said", parts))
    ]
    close(*found, 1e-6)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_cfg": {"embed_dim": 3}}'])
def test_a_configuration_that_is_none(tmp_path: Path, content: str) -> None:
    folder = made.open_clip_folder(tmp_path, made.bpe_clip_model())
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(WeightsMismatch, match="cannot be read as a configuration of open_clip"):
        BioCLIPScore(folder).update(images=random_images(1, SIDE), prompts="a cat")


def test_a_network_of_no_single_image_size_is_refused(tmp_path: Path) -> None:
    """SigLIP 2 NaFlex takes patches and their masks."""
    made.siglip(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "siglip2", "architectures": ["Siglip2Model"]}
    config["vision_config"] = {k: v for k, v in config["vision_config"].items() if k != "image_size"}
    config["vision_config"]["model_type"], config["text_config"]["model_type"] = (
        "siglip2_vision_model",
        "siglip2_text_model",
    )
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsMismatch, match="must be a CLIP or SigLIP of one image size, got 'siglip2'"):
        SigLIPScore(str(tmp_path)).update(images=random_images(1, SIDE), prompts="a cat")


# The scores


def test_pickscore(tmp_path: Path) -> None:
    """Network of one folder, tokenizer and image processor of another."""
    model = made.bpe_clip_model()
    network, processor = (
        made.saved(tmp_path / "net", model),
        made.saved(tmp_path / "parts", made.clip_images(), made.bpe_tokenizer()),
    )
    reference = OpenClip(made.open_clip_tensors(model))
    images = random_images(4, SIDE)
    metric = PickScore(network, processor=processor)
    expected = reference.scale * reference.cosines([standard(x) for x in images], TEXTS)
    close(scores(metric, images, TEXTS), expected)
    assert metric.compute().item() == pytest.approx(expected.mean().item(), abs=1e-5)
    assert re.fullmatch(r"parts@[0-9a-f]{8}", metric.signature().fields["processor"])

    state = {name: x.clone() for name, x in metric.metric_state.items() if isinstance(x, Tensor)}
    matrix = (
        torch.stack([normalize(reference.text(ids_of(t)), dim=0) for t in TEXTS[:3]])
        @ torch.stack([normalize(reference.image(standard(x)), dim=0) for x in images]).T
    )
    close(metric.similarity(images=images, prompts=TEXTS[:3]), reference.scale * matrix)
    overshooting = (images.float() / 255 * 1.01).clamp(max=1.009)
    before = metric.compute()
    metric.similarity(images=overshooting, prompts="a cat")
    close(metric.probabilities(images=images, prompt=TEXTS[1]), (reference.scale * matrix[1]).softmax(0))
    assert metric.compute() == before
    for name, x in state.items():
        assert torch.equal(getattr(metric, name), x), name


@pytest.fixture(scope="module")
def hpsv2(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, OpenClip]:
    """A folder of configuration, tokenizer and image processor; a file of weights; their network."""
    folder = tmp_path_factory.mktemp("hpsv2")
    model = made.bpe_clip_model()
    made.saved(folder / "vit-h", model, made.clip_images(), made.bpe_tokenizer())
    tensors = made.open_clip_tensors(model)
    torch.save({"state_dict": tensors}, folder / "HPS.pt")
    return str(folder / "vit-h"), str(folder / "HPS.pt"), OpenClip(tensors)


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
@pytest.mark.parametrize("scale", [1, 100])
@pytest.mark.parametrize("antialias", [True, False])
def test_hpsv2(hpsv2: tuple[str, str, OpenClip], version: str, scale: int, antialias: bool) -> None:
    model, weights, reference = hpsv2
    images = [random_images(1, size, i)[0] for i, size in enumerate([SIDE, (50, 41), (20, 90), (37, 37)])]
    expected = scale * reference.cosines([squared(antialias)(x) for x in images], TEXTS)
    metric = HPSv2(version, scale=scale, antialias=antialias, weights=weights, network=model)
    found = scores(metric, images, TEXTS)
    close(found, expected, 1e-5 * scale)
    other = scale * reference.cosines([squared(not antialias)(x) for x in images], TEXTS)
    assert (found - other).abs().max() > 1e-3 * scale  # the two ways of resizing are not alike
    fields = metric.signature().fields
    assert fields["variant"] == version
    assert re.fullmatch(r"vit-h@[0-9a-f]{8}", fields["config"])


def test_hpsv2_reads_rgba_as_rgb(hpsv2: tuple[str, str, OpenClip]) -> None:
    model, weights, reference = hpsv2
    x = random_images(1, (40, 30))[0]
    opaque = torch.cat([x, torch.full_like(x[:1], 90)])
    image = Image.fromarray(opaque.permute(1, 2, 0).numpy(), "RGBA")
    found = scores(HPSv2(weights=weights, network=model), [image], TEXTS[:1])
    close(found, reference.cosines([squared(True)(x)], TEXTS[:1]))


def test_probabilities_of_hpsv2_are_those_of_its_training(hpsv2: tuple[str, str, OpenClip]) -> None:
    """Whatever the scale of the score: the softmax of bare cosines would be even."""
    model, weights, reference = hpsv2
    images = random_images(3, SIDE)
    logits = reference.scale * reference.cosines([standard(x) for x in images], TEXTS[:1] * 3)
    for scale in (1, 100):
        metric = HPSv2(weights=weights, network=model, scale=scale)
        close(metric.probabilities(images=images, prompt=TEXTS[0]), logits.softmax(0))


def test_bioclip(tmp_path: Path) -> None:
    """The folder's own mean and standard deviation; 8-bit images resized with antialiasing, as its image processor."""
    mean, std = [0.1, 0.2, 0.3], [0.5, 0.6, 0.7]
    model = made.bpe_clip_model(vision=48)
    folder = made.open_clip_folder(tmp_path, model, preprocess_cfg={"mean": mean, "std": std})
    reference = OpenClip(made.open_clip_tensors(model), heads=(2, 6))
    images = [random_images(1, size, i)[0] for i, size in enumerate([SIDE, (32, 48), (48, 32), (64, 64)])]
    resize = v2.Resize(SIDE, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    ready = [standard(v2.CenterCrop(SIDE)(resize(x)), mean, std) for x in images]
    close(scores(BioCLIPScore(folder), images, TEXTS), reference.scale * reference.cosines(ready, TEXTS))
    (tmp_path / "open_clip_model.safetensors").unlink()
    torch.save(made.open_clip_tensors(model), tmp_path / "open_clip_pytorch_model.bin")
    again = BioCLIPScore(made.open_clip_folder(tmp_path / "bin", model, preprocess_cfg={"mean": mean, "std": std}))
    close(scores(again, images, TEXTS), reference.scale * reference.cosines(ready, TEXTS))


def test_siglip(tmp_path: Path) -> None:
    """The logits of transformers' own forward pass, bias included, of the padded text."""
    folder = made.siglip(tmp_path)
    model = SiglipModel.from_pretrained(folder).eval()
    vocabulary = {word: i for i, word in enumerate(made.SPECIAL + made.WORDS)}
    rows = [[*(vocabulary[w] for w in text.split()), 3] for text in TEXTS]
    padded = torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])
    images = random_images(4, SIDE)
    with torch.no_grad():
        out = model(input_ids=padded, pixel_values=images.float() / 127.5 - 1)
        logits = out.logits_per_image.diag().double()
        scale, bias = model.logit_scale.exp().item(), model.logit_bias.item()
    cosines = (logits - bias) / scale
    assert bias != 0
    close(scores(SigLIPScore(folder), images, TEXTS), 100 * cosines, 1e-4)
    close(scores(SigLIPScore(folder, formula="logit"), images, TEXTS), logits)
    close(scores(SigLIPScore(folder, formula="sigmoid"), images, TEXTS), logits.sigmoid())
    close(
        SigLIPScore(folder, formula="sigmoid").similarity(images=images, prompts=TEXTS), out.logits_per_text.sigmoid()
    )


def test_siglip_attends_to_its_padding(tmp_path: Path) -> None:
    """Also where the tokenizer offers a mask, as that of SigLIP 2 does."""
    one, other = made.siglip(tmp_path / "one"), made.siglip(tmp_path / "other")
    about = tmp_path / "other" / "tokenizer_config.json"
    names = {"model_input_names": ["input_ids", "attention_mask"]}
    about.write_text(json.dumps(json.loads(about.read_text()) | names))
    assert "attention_mask" in AutoTokenizer.from_pretrained(other)("a cat")
    images = random_images(4, SIDE)
    close(scores(SigLIPScore(other), images, TEXTS), scores(SigLIPScore(one), images, TEXTS), 1e-6)


def test_formulas_of_clip_score(hpsv2: tuple[str, str, OpenClip]) -> None:
    folder, _, reference = hpsv2
    images = random_images(24, SIDE)
    texts = [TEXTS[i % 4] for i in range(24)]
    ready = [standard(x) for x in images]
    cosines = reference.cosines(ready, texts)
    assert (cosines < 0).any()
    assert (cosines > 0).any()
    close(scores(CLIPScore(folder), images, texts), 100 * cosines, 1e-4)
    close(scores(CLIPScore(folder, formula="plain"), images, texts), cosines)
    close(scores(CLIPScore(folder, formula="logit"), images, texts), reference.scale * cosines)
    # "A photo depicts a cat": bytes of the unknown word, by hand
    letters = [TWO[x] for x in ("d", "e", "p", "i", "c", "t", "s</w>")]
    ids = [BOS, TWO["a</w>"], TWO["photo</w>"], *letters[: LENGTH - 4], EOS]
    prefixed = torch.stack([cosine_similarity(reference.image(x), reference.text(ids), dim=0) for x in ready])
    metric = CLIPScore(folder, formula="hessel")
    close(scores(metric, images, texts), 2.5 * prefixed.clamp(min=0))
    assert metric.result().details["truncated_fraction"] == 1
    with pytest.raises(UnknownName, match=r"`formula` must be one of 'cosine', .*; got 'cos'"):
        CLIPScore(folder, formula="cos")


ENTITIES = "  the cat &amp;amp;\n\tthe&nbsp;dog "  # escaped twice, and a space that is none of ASCII's
QUOTED = "the \u201ccat\u201d"


def ids_as_written(text: str, tokenizer: str) -> list[int]:
    return AutoTokenizer.from_pretrained(tokenizer)(text, truncation=True, max_length=LENGTH)["input_ids"]


@pytest.mark.parametrize("layout", ["file", "folder", "transformers", "file of transformers"])
def test_texts_of_open_clip_are_cleaned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str) -> None:
    """Where keys or configuration are open_clip's; a checkpoint of transformers reads them as they are."""
    monkeypatch.setitem(sys.modules, "ftfy", None)
    model = made.bpe_clip_model()
    tensors, folder = made.open_clip_tensors(model), made.bpe_clip(tmp_path / "hf")
    foreign = layout in ("file", "folder")
    save_file(tensors if foreign else load_file(tmp_path / "hf/model.safetensors"), tmp_path / "net.safetensors")
    torch.save({"state_dict": tensors}, tmp_path / "net.pt")
    extractors = {
        "file": ClipExtractor(folder, weights=str(tmp_path / "net.pt")),
        "folder": ClipExtractor(made.open_clip_folder(tmp_path / "oc", model)),
        "transformers": ClipExtractor(folder),
        "file of transformers": ClipExtractor(folder, weights=str(tmp_path / "net.safetensors")),
    }
    extractor, reference = extractors[layout], OpenClip(tensors)
    found, _ = extractor.embed_text([ENTITIES, "the cat & the dog", QUOTED], CPU)
    clean = reference.text(ids_of("the cat & the dog"))
    expected = clean if foreign else reference.text(ids_as_written(ENTITIES, folder))
    close(found[0], expected)
    close(found[1], clean)
    close(found[2], reference.text(ids_as_written(QUOTED, folder)))
    assert (reference.text(ids_as_written(ENTITIES, folder)) - clean).abs().max() > 0.1
    assert extractor.signature_fields().get("texts") == ("unescaped" if foreign else None)
    if foreign:  # the names in the file tell, whatever its kind
        assert (
            ClipExtractor(folder, weights=str(tmp_path / "net.safetensors")).signature_fields()["texts"] == "unescaped"
        )


def test_texts_of_open_clip_are_mended(tmp_path: Path) -> None:
    pytest.importorskip("ftfy")
    model = made.bpe_clip_model()
    extractor = ClipExtractor(made.open_clip_folder(tmp_path, model))
    found, _ = extractor.embed_text([QUOTED, ENTITIES], CPU)
    reference = OpenClip(made.open_clip_tensors(model))
    close(found[0], reference.text(ids_of('the " cat "')))
    close(found[1], reference.text(ids_of("the cat & the dog")))
    assert extractor.signature_fields()["texts"] == "ftfy"


# Files


def test_cards() -> None:
    for version, file in (("v2.0", "HPS_v2_compressed.pt"), ("v2.1", "HPS_v2.1_compressed.pt")):
        card = HPSv2(version).extractor.card
        assert card.name == f"HPS_{version}"
        assert card.source == f"https://huggingface.co/xswu/HPSv2/resolve/main/{file}"
        assert card.place == f"xswu/HPSv2/{file}"
        assert HPSv2(version).extractor.model == "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"
    pick = PickScore().extractor
    assert (pick.model, pick.processor) == ("yuvalkirstain/PickScore_v1", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K")
    assert BioCLIPScore().extractor.model == "imageomics/bioclip-2"
    with pytest.raises(UnknownName, match=r"`version` must be one of 'v2.0', 'v2.1'; got 'v2'"):
        HPSv2("v2")
    with pytest.raises(ValueError, match="`scale` must be 1 or 100, got 10"):
        HPSv2(scale=10)


@pytest.mark.parametrize("version", ["v2.0", "v2.1"])
def test_published_files_below_a_folder(
    hpsv2: tuple[str, str, OpenClip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    model, weights, reference = hpsv2
    file = {"v2.0": "HPS_v2_compressed.pt", "v2.1": "HPS_v2.1_compressed.pt"}[version]
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", str(tmp_path))
    metric = HPSv2(version, network="laion/CLIP-ViT-H-14-laion2B-s32B-b79K")
    place = tmp_path / "xswu/HPSv2" / file
    (tmp_path / "laion").mkdir()
    (tmp_path / "laion/CLIP-ViT-H-14-laion2B-s32B-b79K").symlink_to(model)
    url = re.escape(f"https://huggingface.co/xswu/HPSv2/resolve/main/{file}")
    with pytest.raises(MissingWeights, match=rf"weights of HPS_{version} .* Fetch {url} and put it at {place}"):
        metric.update(images=random_images(1, SIDE), prompts="a cat")
    place.parent.mkdir(parents=True)
    place.write_bytes(Path(weights).read_bytes())
    images = random_images(2, SIDE)
    close(scores(metric, images, TEXTS[:2]), reference.cosines([standard(x) for x in images], TEXTS[:2]))
    assert metric.extractor.prefetch() == place


def test_a_hub_id_that_is_nowhere() -> None:
    with pytest.raises(MissingWeights, match=r"Fetch https://huggingface.co/imageomics/bioclip-2 "):
        BioCLIPScore().update(images=random_images(1, SIDE), prompts="a cat")
    with pytest.raises(MissingWeights, match=r"`weights` for gone must be an existing file, got '/gone\.pt'"):
        HPSv2(network="digits-clip", weights="/gone.pt").update(images=random_images(1, SIDE), prompts="a cat")


class _Trap:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_files_that_cannot_be_read(hpsv2: tuple[str, str, OpenClip], tmp_path: Path) -> None:
    """Truncated, with code in them, or with something else than tensors by name."""
    model, weights, _ = hpsv2
    whole = Path(weights).read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    save_file(torch.load(weights)["state_dict"], tmp_path / "whole.safetensors")
    stored = (tmp_path / "whole.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(stored[: len(stored) // 2])
    torch.save({"state_dict": _Trap(tmp_path / "ran")}, tmp_path / "trap.pt")
    torch.save({0: torch.zeros(1)}, tmp_path / "numbered.pt")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    for name in ("cut.pt", "cut.safetensors", "trap.pt", "numbered.pt", "list.pt"):
        with pytest.raises(WeightsMismatch, match=re.escape(str(tmp_path / name))):
            HPSv2(network=model, weights=str(tmp_path / name)).update(images=random_images(1, SIDE), prompts="a cat")
    assert not (tmp_path / "ran").exists()


def test_a_truncated_folder(tmp_path: Path) -> None:
    for name, folder in (
        ("open_clip_model.safetensors", made.open_clip_folder(tmp_path / "oc", made.bpe_clip_model())),
        ("model.safetensors", made.bpe_clip(tmp_path / "hf")),
    ):
        path = Path(folder) / name
        path.write_bytes(path.read_bytes()[:2000])
        with pytest.raises(WeightsMismatch, match="cannot be read"):
            BioCLIPScore(folder).update(images=random_images(1, SIDE), prompts="a cat")
    (tmp_path / "oc" / "open_clip_model.safetensors").unlink()
    with pytest.raises(MissingWeights, match=r"holds none of open_clip_model.safetensors, open_clip_pytorch_model.bin"):
        BioCLIPScore(str(tmp_path / "oc")).update(images=random_images(1, SIDE), prompts="a cat")


@pytest.mark.parametrize("layout", ["open_clip", "transformers", "folder"])
def test_keys_that_do_not_fit_are_told_at_once(hpsv2: tuple[str, str, OpenClip], tmp_path: Path, layout: str) -> None:
    model, weights, _ = hpsv2
    if layout == "open_clip":
        tensors, lost, odd = torch.load(weights)["state_dict"], "ln_final.bias", "visual.proj"
        told = "text_model.final_layer_norm.bias", "visual_projection.weight is (12, 15) and must be (12, 16)"
    else:
        tensors = load_file(Path(model) / "model.safetensors")
        lost, odd = "text_model.final_layer_norm.bias", "visual_projection.weight"
        told = lost, "visual_projection.weight is (15, 12) and must be (12, 16)"
    del tensors[lost]
    tensors[odd] = tensors[odd][:15].contiguous() if layout == "open_clip" else torch.zeros(15, 12)
    tensors["visual.trunk.x"] = torch.zeros(1)
    save_file(tensors, tmp_path / "net.safetensors", metadata={"format": "pt"})
    if layout == "folder":
        made.bpe_clip(tmp_path / "hf")
        (tmp_path / "net.safetensors").replace(tmp_path / "hf" / "model.safetensors")
        metric: Any = PickScore(str(tmp_path / "hf"))
    else:
        metric = HPSv2(network=model, weights=str(tmp_path / "net.safetensors"))
    with pytest.raises(WeightsMismatch) as error:
        metric.update(images=random_images(1, SIDE), prompts="a cat")
    text = str(error.value)
    assert f"missing: {told[0]}; unexpected: visual.trunk.x; of another shape: {told[1]}" in text


def test_a_file_of_weights_may_be_a_path(hpsv2: tuple[str, str, OpenClip]) -> None:
    model, weights, _ = hpsv2
    images = random_images(2, SIDE)
    found = [scores(HPSv2(network=model, weights=w), images, TEXTS[:2]) for w in (weights, Path(weights))]
    close(*found, 1e-6)


def test_a_prefix_of_parallel_training(hpsv2: tuple[str, str, OpenClip], tmp_path: Path) -> None:
    model, weights, _ = hpsv2
    tensors = {f"module.{k}": x for k, x in torch.load(weights)["state_dict"].items()}
    save_file(tensors, tmp_path / "net.safetensors")
    images = random_images(2, SIDE)
    found = [
        scores(HPSv2(network=model, weights=w), images, TEXTS[:2]) for w in (weights, str(tmp_path / "net.safetensors"))
    ]
    close(*found, 1e-6)


def test_configuration_and_processor_are_cited(tmp_path: Path) -> None:
    """A configuration of another activation gives other numbers from the same file: not the same signature."""
    model = made.bpe_clip_model()
    torch.save({"state_dict": made.open_clip_tensors(model)}, tmp_path / "net.pt")
    folders = [made.bpe_clip(tmp_path / act, act=act) for act in ("gelu", "quick_gelu")]
    one, other = (HPSv2(network=folder, weights=str(tmp_path / "net.pt")) for folder in folders)
    images = random_images(2, SIDE)
    assert (scores(one, images, TEXTS[:2]) - scores(other, images, TEXTS[:2])).abs().max() > 1e-3
    assert str(one.signature()) != str(other.signature())


@pytest.mark.parametrize("part", ["processor", "tokenizer", "config"])
def test_folders_of_one_name_and_other_content_are_told_apart(tmp_path: Path, part: str) -> None:
    model = made.bpe_clip_model()
    torch.save({"state_dict": made.open_clip_tensors(model)}, tmp_path / "net.pt")
    one, same, other = (made.bpe_clip(tmp_path / name / "vit") for name in ("one", "same", "other"))
    name, changed = {
        "processor": ("preprocessor_config.json", '"image_mean"'),
        "tokenizer": ("tokenizer.json", '"ignore_merges"'),
        "config": ("config.json", '"hidden_act"'),
    }[part]
    path = next(path for path in (Path(other) / name, Path(other) / "processor_config.json") if path.is_file())
    assert changed in path.read_text()
    path.write_text(path.read_text().replace(changed, changed[:-1] + '_"'))
    rules = [
        ClipExtractor(folder, weights=str(tmp_path / "net.pt")).signature_fields() for folder in (one, same, other)
    ]
    assert rules[0] == rules[1] != rules[2]
    assert {key for key in rules[0] if rules[0][key] != rules[2][key]} == {"config"}
    given = [ClipExtractor(one, processor=folder).signature_fields() for folder in (one, same, other)]
    assert given[0] == given[1]
    assert (given[0] == given[2]) == (part == "config")  # of a processor's folder, the configuration is not read
    assert ClipExtractor("org/none", processor="org/none").signature_fields()["processor"] == "org/none"


def snapshot(cache: Path, repo: str, source: Path, *names: str) -> Path:
    """A folder of the hub's cache as a plain download of `names` leaves it: no word of what the repository lacks."""
    root = cache / f"models--{repo.replace('/', '--')}"
    folder = root / "snapshots" / ("1" * 40)
    folder.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("1" * 40)
    for name in names or os.listdir(source):
        (folder / name).write_bytes((source / name).read_bytes())
    return folder


@pytest.mark.parametrize("safe", [True, False])
def test_open_clip_in_a_downloaded_snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, safe: bool) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    model = made.bpe_clip_model()
    made.open_clip_folder(tmp_path / "oc", model)
    if not safe:
        torch.save(made.open_clip_tensors(model), tmp_path / "oc" / "open_clip_pytorch_model.bin")
        (tmp_path / "oc" / "open_clip_model.safetensors").unlink()
    folder = snapshot(tmp_path / "cache", "org/oc", tmp_path / "oc")
    (folder / "unrelated.safetensors").write_bytes(b"x")
    images = random_images(2, SIDE)
    metric = BioCLIPScore("org/oc")
    found = scores(metric, images, TEXTS[:2])
    reference = OpenClip(made.open_clip_tensors(model))
    close(found, reference.scale * reference.cosines([standard(x) for x in images], TEXTS[:2]))
    assert metric.extractor.prefetch() == metric.extractor.local_path() == folder
    file = folder / ("open_clip_model.safetensors" if safe else "open_clip_pytorch_model.bin")
    assert metric.signature().fields["weights"] == hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    hf = made.bpe_clip(tmp_path / "hf")
    snapshot(tmp_path / "cache", "org/hf", Path(hf))
    given = ClipExtractor(hf, processor="org/hf")
    given.network(CPU)
    assert given.signature_fields()["processor"].startswith("org/hf@")
    file.unlink()
    with pytest.raises(MissingWeights, match=r"holds none of open_clip_model.safetensors, open_clip_pytorch"):
        ClipExtractor("org/oc").load()


def test_transformers_layout_is_preferred(tmp_path: Path) -> None:
    """A repository with both configurations, as LAION's are, is that of transformers."""
    model: CLIPModel = made.bpe_clip_model()
    made.open_clip_folder(tmp_path, model, text_cfg={"no_causal_mask": True})  # would be refused
    made.saved(tmp_path, model, made.clip_images())
    reference = OpenClip(made.open_clip_tensors(model))
    images = random_images(2, SIDE)
    found = scores(PickScore(str(tmp_path)), images, TEXTS[:2])
    close(found, reference.scale * reference.cosines([standard(x) for x in images], TEXTS[:2]))


class _Hub(http.server.SimpleHTTPRequestHandler):
    """Files of repositories, with the headers that the hub's client wants."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = Path(self.directory) / self.path.lstrip("/").split("?")[0].replace("/resolve/main/", "/")
        body = path.read_bytes() if "/resolve/main/" in self.path and path.is_file() else b""
        self.send_response(200 if body else 404)
        self.send_header("X-Repo-Commit", "0" * 40)
        if body:
            self.send_header("ETag", f'"{hashlib.sha256(body).hexdigest()}"')
        else:
            self.send_header("X-Error-Code", "EntryNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args: Any) -> None: ...


_USER = """
import json, os, sys, torch
from dataclasses import replace
from lightning_imgmetrics import BioCLIPScore, HPSv2, PickScore
from lightning_imgmetrics.errors import WeightsMismatch
from lightning_imgmetrics.models.base.weights import ModelCard, find_weights
from lightning_imgmetrics.models.base.network import NETWORKS
images = torch.load(sys.argv[1])
for offline in ("0", "1"):
    os.environ["HF_HUB_OFFLINE"] = offline
    NETWORKS.clear()
    for metric in (PickScore("org/both"), BioCLIPScore("org/alone"), HPSv2(network="org/both")):
        metric.update(images=images, prompts="a cat", ids=range(len(images)))
        fields = metric.signature().fields
        print(json.dumps([metric.scores()[1].tolist(), fields["weights"], metric.extractor.local_path() is not None]))
os.environ["HF_HUB_OFFLINE"] = "0"
card = replace(ModelCard.on_hub("net", "org/alone", "extra.bin"), sha256="00000000")
try:
    find_weights(card)
except WeightsMismatch as error:
    print(json.dumps(str(error)))
"""


def test_the_hub(tmp_path: Path) -> None:
    """Downloaded by the hub's own client, then found in its cache, offline; of two layouts, that of transformers."""
    model = made.bpe_clip_model()
    both, alone = tmp_path / "hub/org/both", tmp_path / "hub/org/alone"
    made.open_clip_folder(both, model, text_cfg={"no_causal_mask": True})  # would be refused
    made.saved(both, model, made.clip_images())
    made.open_clip_folder(alone, model)
    (alone / "extra.bin").write_bytes(b"not what the card names")
    (tmp_path / "hub/xswu/HPSv2").mkdir(parents=True)
    torch.save({"state_dict": made.open_clip_tensors(model)}, tmp_path / "hub/xswu/HPSv2/HPS_v2.1_compressed.pt")
    images = random_images(2, SIDE)
    torch.save(images, tmp_path / "images.pt")
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Hub, directory=str(tmp_path / "hub")))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    hub = {"HF_ENDPOINT": f"http://127.0.0.1:{web.server_address[1]}", "HF_HOME": str(tmp_path / "home")}
    try:
        done = subprocess.run(
            [sys.executable, "-c", _USER, str(tmp_path / "images.pt")],
            env={**os.environ, **hub, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
            timeout=170,
        )
    finally:
        web.shutdown()
        web.server_close()
    assert done.returncode == 0, done.stderr
    *answers, mismatch = [json.loads(line) for line in done.stdout.splitlines()]
    digest = hashlib.sha256(b"not what the card names").hexdigest()
    assert mismatch.endswith(f"extra.bin is not net: sha256 must begin with 00000000, got {digest}")
    reference = OpenClip(made.open_clip_tensors(model))
    cosines = reference.cosines([standard(x) for x in images], ["a cat"] * 2)
    expected = [reference.scale * cosines, reference.scale * cosines, cosines] * 2
    files = [
        both / "model.safetensors",
        alone / "open_clip_model.safetensors",
        tmp_path / "hub/xswu/HPSv2/HPS_v2.1_compressed.pt",
    ]
    digests = [hashlib.sha256(path.read_bytes()).hexdigest()[:8] for path in files] * 2
    for (found, digest, here), numbers, wanted in zip(answers, expected, digests, strict=True):
        close(torch.tensor(found), numbers)
        assert digest == wanted
        assert here
