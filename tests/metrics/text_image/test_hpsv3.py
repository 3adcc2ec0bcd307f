"""HPSv3 against its definition in transformers, on tiny random checkpoints in both public layouts."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Worlds, random_images
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from torch.nn.functional import linear
from transformers import (
    AutoConfig,
    CLIPImageProcessor,
    CLIPVisionConfig,
    PreTrainedTokenizerFast,
    Qwen2VLForConditionalGeneration,
    Qwen2VLImageProcessor,
)

from lightning_imgmetrics import MetricSuite
from lightning_imgmetrics.data.decode import decode
from lightning_imgmetrics.errors import (
    MissingWeights,
    NonFiniteFeatures,
    ShapeError,
    UnknownName,
    ValueRangeError,
    WeightsMismatch,
)
from lightning_imgmetrics.metrics.text_image.preference import HPSv3
from lightning_imgmetrics.models.base.network import NETWORKS
from lightning_imgmetrics.models.prompt_templates.hpsv3 import HPSV3_INSTRUCTION, HPSV3_SUFFIX
from lightning_imgmetrics.models.prompt_templates.templates import TemplateCard
from lightning_imgmetrics.models.scorers import hpsv3
from lightning_imgmetrics.models.scorers.hpsv3 import HPSv3Extractor
from lightning_imgmetrics.models.scorers.hpsv3_net import hpsv3_keys, mrope

pytestmark = pytest.mark.filterwarnings("ignore:the prompt hpsv3-:UserWarning")  # the generic wording stands in

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>"]
SPECIAL += ["<|image_pad|>", "<|video_pad|>"]
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT = """{% for message in messages %}\
{% if loop.first and message.role != 'system' %}<|im_start|>system
You are a helpful assistant.<|im_end|>
{% endif %}<|im_start|>{{ message.role }}
{% for part in message.content %}\
{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>\
{% elif 'text' in part %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
BEFORE = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
BEHIND = "<|im_end|>\n<|im_start|>assistant\n"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
WIDTH, CONTEXT = 16, 3000
PROMPTS = ["a red cat by the lake", "two dogs", "a {bold} poster: 'Éclair' – 50 %", "the house\n\nin the fog " * 9]
SIZES = [(448, 448), (224, 896), (896, 224), (448, 448)]  # 200704 pixels in whole tokens: nothing is resized


def trained() -> Tokenizer:
    """Qwen2's byte-level BPE, learned from the wording of this package; no special tokens yet."""
    core = Tokenizer(models.BPE())
    core.normalizer = normalizers.NFC()
    split = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=sorted(alphabet), show_progress=False)
    core.train_from_iterator([HPSV3_INSTRUCTION.generic, HPSV3_SUFFIX.generic, *PROMPTS], trainer)
    return core


def tokenizer_of(core: Tokenizer) -> PreTrainedTokenizerFast:
    copy = Tokenizer.from_str(core.to_str())
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=copy, pad_token=SPECIAL[0], eos_token=SPECIAL[2])
    tokenizer.add_tokens(SPECIAL, special_tokens=True)
    tokenizer.chat_template = CHAT
    return tokenizer


def config_of(tokenizer: Any) -> dict[str, Any]:
    """The flat layout of the public file; more embedding rows than tokens, as there."""
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")
    }
    ids |= {f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}_pad|>") for name in ("image", "video")}
    vision = dict(depth=2, embed_dim=16, hidden_size=WIDTH, mlp_ratio=2, num_heads=2, in_chans=3, patch_size=14)
    vision |= dict(spatial_merge_size=2, spatial_patch_size=14, temporal_patch_size=2)
    text = dict(hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, hidden_act="silu")
    text |= dict(num_key_value_heads=1, vocab_size=len(tokenizer) + 50, max_position_embeddings=CONTEXT)
    text |= dict(rms_norm_eps=1e-6, rope_theta=1e6, rope_scaling=dict(type="mrope", mrope_section=[1, 1, 2]))
    text |= dict(sliding_window=CONTEXT, use_sliding_window=False, max_window_layers=2, tie_word_embeddings=False)
    ids |= dict(bos_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id)
    kind = dict(model_type="qwen2_vl", architectures=["Qwen2VLForConditionalGeneration"])
    return kind | text | ids | dict(vision_config=vision)


@dataclass(frozen=True)
class Checkpoint:
    """A folder with the processor, files in the new and the old layout, and what they were made of."""

    folder: str
    new: str
    old: str
    core: Tokenizer
    tensors: dict[str, Tensor]

    def metric(self, **kwargs: Any) -> HPSv3:
        return HPSv3(**{"weights": self.new, "processor": self.folder, **kwargs})

    def scores(self, images: Any, prompts: Any, **kwargs: Any) -> Tensor:
        """(n, 2): score and sigma, in the order given."""
        extractor = self.metric(**kwargs).extractor
        device = torch.device("cpu")
        batches = [image[None] for image in images]
        return extractor.score(extractor(batches, ("pixels",), device), list(prompts), device)[0]


def old_name(key: str) -> str:
    return key.replace("model.visual.", "visual.").replace("model.language_model.", "model.")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("qwen2-vl")
    core = trained()
    tokenizer = tokenizer_of(core)
    tokenizer.save_pretrained(folder)
    stated = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**stated, "tokenizer_class": "Qwen2Tokenizer"}))
    Qwen2VLImageProcessor().save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(config_of(tokenizer)))
    config = AutoConfig.from_pretrained(folder)
    config.text_config.vocab_size = len(tokenizer) + 1  # with <|Reward|>
    g = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        wanted = Qwen2VLForConditionalGeneration(config).state_dict()
    for i, (width, fed) in {0: (1024, WIDTH), 3: (16, 1024), 5: (2, 16)}.items():
        wanted |= {f"rm_head.{i}.weight": torch.empty(width, fed), f"rm_head.{i}.bias": torch.empty(width)}
    tensors = {}
    for key, x in wanted.items():
        scale = 1.5 if "embed_tokens" in key else 1.4 / max(x[0].numel(), 4) ** 0.5  # images and prompts must tell
        noise = torch.randn(x.shape, generator=g) * scale
        tensors[key] = (1 + noise if "norm" in key and key.endswith("weight") else noise).bfloat16()
    paths = [str(folder.parent / f"{folder.name}-{layout}.safetensors") for layout in ("new", "old")]
    save_file(tensors, paths[0])
    save_file({old_name(key): x for key, x in tensors.items()}, paths[1])
    return Checkpoint(str(folder), *paths, core, tensors)


class Reference:
    """The definition, one pair at a time: inputs assembled by hand, the network called directly."""

    def __init__(self, checkpoint: Checkpoint, dtype: torch.dtype = torch.float32) -> None:
        self.core = checkpoint.core
        self.tokenizer = tokenizer_of(checkpoint.core)
        self.tokenizer.add_tokens(["<|Reward|>"], special_tokens=True)
        config = AutoConfig.from_pretrained(checkpoint.folder)
        config.text_config.vocab_size = len(self.tokenizer)
        with torch.random.fork_rng():
            self.model = Qwen2VLForConditionalGeneration(config).eval()
        tensors = {key: x.float() for key, x in checkpoint.tensors.items()}
        self.head = [tensors.pop(f"rm_head.{i}.{name}") for i in (0, 3, 5) for name in ("weight", "bias")]
        self.model.load_state_dict(tensors)
        for parameter in self.model.parameters():  # and not the rotary frequencies, which `to` would round as well
            parameter.data = parameter.data.to(dtype)

    def ids(self, prompt: str, tokens: int) -> Tensor:
        """The whole chat as the reference tokenizes it, in one piece."""
        text = HPSV3_INSTRUCTION.generic.replace("{text_prompt}", prompt) + HPSV3_SUFFIX.generic
        chat = f"{BEFORE}{'<|image_pad|>' * tokens}<|vision_end|>{text}{BEHIND}"
        return torch.tensor(self.tokenizer(chat)["input_ids"])

    def literal_ids(self, prompt: str, tokens: int) -> Tensor:
        """The chat with all of the prompt read by a tokenizer that has no special tokens."""
        text = HPSV3_INSTRUCTION.generic.replace("{text_prompt}", prompt) + HPSV3_SUFFIX.generic[: -len("<|Reward|>")]
        ends = [f"{BEFORE}{'<|image_pad|>' * tokens}<|vision_end|>", f"<|Reward|>{BEHIND}"]
        first, last = (self.tokenizer(end)["input_ids"] for end in ends)
        return torch.tensor(first + self.core.encode(text).ids + last)

    def patches(self, image: Tensor) -> Tensor:
        """Patches of 14 by 14, twice in time, in the order of 2 by 2 neighbors."""
        x = (image.double() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
        cells = []
        for row in range(0, x.shape[1], 28):
            for column in range(0, x.shape[2], 28):
                for down, right in ((0, 0), (0, 14), (14, 0), (14, 14)):
                    patch = x[:, row + down : row + down + 14, column + right : column + right + 14]
                    cells.append(torch.stack([patch, patch], 1).flatten())
        return torch.stack(cells).float()

    @torch.no_grad()
    def __call__(self, image: Tensor, prompt: str, *, mrope: bool = False, literal: bool = False) -> Tensor:
        grid = torch.tensor([[1, image.shape[1] // 14, image.shape[2] // 14]])
        ids = (self.literal_ids if literal else self.ids)(prompt, int(grid.prod()) // 4)[None]
        is_image = ids == self.tokenizer.convert_tokens_to_ids("<|image_pad|>")
        inner, pixels = self.model.model, self.patches(image)
        if mrope:  # as transformers derives positions from image and text
            inputs = {"input_ids": ids, "mm_token_type_ids": is_image.int(), "pixel_values": pixels}
            hidden = inner(image_grid_thw=grid, **inputs).last_hidden_state
        else:  # as the released training code: embeddings alone, of which nothing says that there is an image
            embeddings = inner.language_model.embed_tokens(ids).clone()
            embeddings[is_image] = inner.visual(pixels, grid_thw=grid).pooler_output
            hidden = inner.language_model(inputs_embeds=embeddings).last_hidden_state
        at = (ids[0] == self.tokenizer.convert_tokens_to_ids("<|Reward|>")).nonzero()
        x = hidden[0, int(at)].float()
        for i, (weight, bias) in enumerate(zip(self.head[::2], self.head[1::2], strict=True)):
            x = linear(x if i == 0 else x.relu(), weight, bias)
        return torch.stack([x[0], x[1].exp()])

    def scores(self, images: Any, prompts: Any, **kwargs: Any) -> Tensor:
        return torch.stack([self(image, prompt, **kwargs) for image, prompt in zip(images, prompts, strict=True)])


@pytest.fixture(scope="module")
def reference(checkpoint: Checkpoint) -> Reference:
    return Reference(checkpoint)


@pytest.fixture(scope="module")
def images() -> list[Tensor]:
    return [random_images(1, size, seed=i)[0] for i, size in enumerate(SIZES)]


def close(x: Tensor, y: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("positions", ["sequential", "mrope"])
def test_scores(checkpoint: Checkpoint, reference: Reference, images: list[Tensor], positions: str) -> None:
    expected = reference.scores(images, PROMPTS, mrope=positions == "mrope")
    assert expected[:, 0].std() > 0.01
    close(checkpoint.scores(images, PROMPTS, positions=positions), expected)


def test_images_and_prompts_both_count(reference: Reference, images: list[Tensor]) -> None:
    """What the other tests rest on: this random checkpoint does tell its inputs apart."""
    base = reference(images[0], PROMPTS[0])
    for other in (reference(images[3], PROMPTS[0]), reference(images[0], PROMPTS[1])):
        assert (other - base).abs().min() > 1e-3


def test_positions_differ(checkpoint: Checkpoint, images: list[Tensor]) -> None:
    sequential, mrope = (checkpoint.scores(images, PROMPTS, positions=name) for name in ("sequential", "mrope"))
    assert (sequential - mrope).abs().min() > 1e-4
    again = checkpoint.scores(images, PROMPTS)  # nothing of the other positions stays with the shared network
    assert torch.equal(again, sequential)
    keys = {checkpoint.metric(positions=name).extractor.key for name in ("sequential", "mrope")}
    assert len(keys) == 1


def test_mrope_positions_by_hand() -> None:
    """Two tokens, an image of 2 x 3, two tokens: these go on behind 2 + max(2, 3)."""
    expected = [[0, 1, 2, 2, 2, 2, 2, 2, 5, 6], [0, 1, 2, 2, 2, 3, 3, 3, 5, 6], [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]]
    assert mrope(10, 2, 2, 3).tolist() == expected


def test_the_metric(checkpoint: Checkpoint, reference: Reference, images: list[Tensor]) -> None:
    expected = reference.scores(images, PROMPTS).double()
    metric = checkpoint.metric()
    metric.update(images=images, prompts=PROMPTS, ids=range(4))
    result = metric.result()
    close(metric.scores()[1], expected[:, 0])
    assert result.value == pytest.approx(expected[:, 0].mean().item(), rel=1e-5)
    assert result.details["sigma"] == pytest.approx(expected[:, 1].mean().item(), rel=1e-5)
    assert result.details["truncated_fraction"] == 0
    assert result.higher_is_better
    digest = hashlib.sha256(Path(checkpoint.new).read_bytes()).hexdigest()[:8]
    fields = metric.signature().fields
    assert {k: fields[k] for k in ("metric", "network", "weights", "positions", "template")} == {
        "metric": "hpsv3",
        "network": "HPSv3",
        "weights": digest,
        "positions": "sequential",
        "template": "generic",
    }
    assert "dtype" not in fields
    assert checkpoint.metric(positions="mrope", dtype="bfloat16").signature().fields["positions"] == "mrope"


def test_both_layouts_are_one_network(checkpoint: Checkpoint, images: list[Tensor], tmp_path: Path) -> None:
    expected = checkpoint.scores(images[:1], PROMPTS[:1])
    assert torch.equal(checkpoint.scores(images[:1], PROMPTS[:1], weights=checkpoint.old), expected)
    headless = {key: x for key, x in checkpoint.tensors.items() if key != "lm_head.weight"}
    save_file(headless, tmp_path / "headless.safetensors")
    path = str(tmp_path / "headless.safetensors")
    assert torch.equal(checkpoint.scores(images[:1], PROMPTS[:1], weights=path), expected)
    new, old = (hpsv3_keys({name(key): x for key, x in checkpoint.tensors.items()}) for name in (str, old_name))
    assert [list(part) for part in new] == [list(part) for part in old]


def sharded(folder: Path, tensors: dict[str, Tensor]) -> str:
    """Three files and their index, each tensor in one of them, under the older names."""
    folder.mkdir()
    names = [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    weight_map = {old_name(key): names[i % 3] for i, key in enumerate(tensors)}
    for name in names:
        save_file({old_name(k): x for k, x in tensors.items() if weight_map[old_name(k)] == name}, folder / name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return str(folder)


def test_a_folder_of_shards(checkpoint: Checkpoint, images: list[Tensor], tmp_path: Path) -> None:
    folder = sharded(tmp_path / "shards", checkpoint.tensors)
    (tmp_path / "shards" / "another.safetensors").write_bytes(b"not in the index")
    expected = checkpoint.scores(images[:1], PROMPTS[:1])
    assert torch.equal(checkpoint.scores(images[:1], PROMPTS[:1], weights=folder), expected)
    extractor = checkpoint.metric(weights=folder).extractor
    assert extractor.prefetch() == extractor.local_path() == Path(folder)
    files = [Path(folder) / f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    digests = [hashlib.sha256(file.read_bytes()).hexdigest()[:8] for file in files]
    assert extractor.signature_fields()["weights"] == "+".join(digests)
    save_file(load_file(files[0]) | {"visual.x": torch.zeros(1)}, files[0])
    with pytest.raises(WeightsMismatch, match=rf"{folder} does not fit its network: keys unexpected: visual.x"):
        checkpoint.metric(weights=folder).extractor.load()
    files[1].unlink()
    assert extractor.local_path() is None
    with pytest.raises(MissingWeights, match=rf"a file, or a folder with model.safetensors.index.* got '{folder}"):
        extractor.prefetch()
    (Path(folder) / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(WeightsMismatch, match="cannot be read as an index of weights"):
        extractor.prefetch()


def test_processors_of_one_name_and_other_content_are_told_apart(checkpoint: Checkpoint, tmp_path: Path) -> None:
    rules = []
    for name in ("one", "same", "chat", "pixels"):
        folder = tmp_path / name / "qwen"
        shutil.copytree(checkpoint.folder, folder)
        changed = {"chat": "chat_template.jinja", "pixels": "preprocessor_config.json"}.get(name)
        if changed is not None:
            (folder / changed).write_text((folder / changed).read_text() + " ")
        rules.append(checkpoint.metric(processor=str(folder)).extractor.signature_fields())
    assert rules[0] == rules[1]
    assert len({rule["processor"] for rule in rules}) == 3
    assert all(rule["processor"].startswith("qwen@") for rule in rules)
    assert HPSv3().extractor.signature_fields()["processor"] == hpsv3.QWEN2_VL


def test_weights_without_their_tokenizer_are_not_all(checkpoint: Checkpoint) -> None:
    assert checkpoint.metric().extractor.local_path() == Path(checkpoint.new)
    assert checkpoint.metric(processor=hpsv3.QWEN2_VL).extractor.local_path() is None


def test_batches_do_not_matter(checkpoint: Checkpoint) -> None:
    """16 pairs at once, padded to the longest, and one by one; prompts of 1 to 60 words, images of three shapes."""
    images = [random_images(1, SIZES[i % 3], seed=i)[0] for i in range(16)]
    prompts = [" ".join(["fog"] * (1 + 4 * i)) for i in range(16)]
    whole = checkpoint.scores(images, prompts)
    single = torch.cat([checkpoint.scores([image], [prompt]) for image, prompt in zip(images, prompts, strict=True)])
    close(whole, single)
    assert single[:, 0].std() > 1e-3
    extractor = checkpoint.metric().extractor
    assert extractor.max_batch == 16


def test_pixels_are_those_of_the_image_processor(checkpoint: Checkpoint, reference: Reference) -> None:
    image = random_images(1, (224, 896), seed=5)[0]
    processor = Qwen2VLImageProcessor.from_pretrained(checkpoint.folder)
    pil = processor(images=Image.fromarray(image.permute(1, 2, 0).numpy()), return_tensors="pt")
    (prepared,) = checkpoint.metric().extractor([image[None]], ("pixels",), torch.device("cpu"))["pixels"]
    ours = processor(images=[prepared], do_resize=False, return_tensors="pt")
    assert torch.equal(ours["pixel_values"], pil["pixel_values"])
    assert torch.equal(ours["image_grid_thw"], pil["image_grid_thw"])
    close(ours["pixel_values"], reference.patches(image))


@pytest.mark.parametrize("size", [(333, 777), (64, 50), (1, 1), (7, 1400)])
def test_other_sizes_are_resized(checkpoint: Checkpoint, reference: Reference, size: tuple[int, int]) -> None:
    """To Pillow's pixels but for one level in few of them, which this network hardly sees."""
    image = random_images(1, size, seed=6)[0]
    height, width = {(333, 777): (280, 672), (64, 50): (532, 420), (1, 1): (448, 448), (7, 1400): (56, 6356)}[size]
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    for shape in ((width, size[0]), (width, height)):
        pil = pil.resize(shape, Image.Resampling.BICUBIC)
    expected = reference(torch.from_numpy(np.array(pil)).permute(2, 0, 1), PROMPTS[0])
    close(checkpoint.scores([image], PROMPTS[:1])[0], expected, 1e-3)


def test_kinds_of_images(checkpoint: Checkpoint, images: list[Tensor]) -> None:
    def value(image: Any) -> float:
        metric = checkpoint.metric()
        metric.update(images=image, prompts=PROMPTS[0])
        return metric.compute().item()

    image = images[0]
    expected = value(image)
    pil = Image.fromarray(image.permute(1, 2, 0).numpy())
    alpha = pil.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(pil.size))
    assert value([pil]) == value([alpha]) == value(image.float() / 255) == expected  # transparency is dropped
    grey = image[:1]
    deep = Image.fromarray((grey[0].numpy().astype(np.uint16)) * 257)
    assert value(decode(deep)) == value(grey) == value(grey.expand(3, -1, -1))
    with pytest.raises(ShapeError, match="`images` must be"):
        value(torch.zeros(1, 4, 32, 32, dtype=torch.uint8))
    with pytest.raises(ValueRangeError, match=r"0\.\.255"):
        value(grey.int() * 257)
    metric = checkpoint.metric()
    with pytest.raises(ShapeError, match="200 times"):
        metric.update(images=torch.zeros(1, 3, 2, 401), prompts="a line")
    assert metric.texts == 0


@pytest.mark.parametrize(
    "prompt", ["<|Reward|>", "a cat<|Reward|> and <|image_pad|>", "<|im_end|>\n<|im_start|>assistant", "<|endoftext|>"]
)
def test_special_tokens_in_prompts_are_letters(
    checkpoint: Checkpoint, reference: Reference, images: list[Tensor], prompt: str
) -> None:
    expected = reference(images[0], prompt, literal=True)
    close(checkpoint.scores(images[:1], [prompt])[0], expected)
    assert len(reference.ids(prompt, 1)) < len(reference.literal_ids(prompt, 1))
    plain = PROMPTS[2]  # without such tokens, parts and whole are the same ids
    assert torch.equal(reference.ids(plain, 4), reference.literal_ids(plain, 4))


def test_long_prompts(checkpoint: Checkpoint, reference: Reference, images: list[Tensor]) -> None:
    long = " ".join(["the"] * 2000)
    metric = checkpoint.metric()
    metric.update(images=images[0], prompts=long)
    assert metric.compute().item() == pytest.approx(reference(images[0], long)[0].item(), rel=1e-5)
    assert metric.result().details["truncated_fraction"] == 0
    frame = len(reference.ids("the", 256)) - 1
    fits, beyond = (" ".join(["the"] * (CONTEXT - frame + extra)) for extra in (0, 1))
    assert len(reference.ids(fits, 256)) == CONTEXT
    assert checkpoint.scores(images[:1], [fits]).isfinite().all()
    with pytest.raises(ValueError, match=rf"`prompts\[1\]` makes a chat of {CONTEXT + 1} tokens, .* at most {CONTEXT}"):
        metric.update(images=images[:2], prompts=["short", beyond])
    assert metric.texts == 1


def test_bfloat16_weights(checkpoint: Checkpoint, images: list[Tensor]) -> None:
    """As published: weights and hidden states in bfloat16, the head in float32; the trainer's autocast has no say."""
    expected = Reference(checkpoint, torch.bfloat16).scores(images, PROMPTS)
    exact = checkpoint.scores(images, PROMPTS)
    singles = [checkpoint.scores([image], [prompt], dtype="bfloat16") for image, prompt in zip(images, PROMPTS)]
    ours = torch.cat(singles)
    assert ours.dtype == torch.float32
    close(ours, expected)
    assert (ours - exact).abs().max() > 1e-3
    network = checkpoint.metric(dtype="bfloat16").extractor.network(torch.device("cpu"))
    assert {p.dtype for p in network.backbone.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in network.head.parameters()} == {torch.float32}
    assert checkpoint.metric(dtype="bfloat16").extractor.key != checkpoint.metric().extractor.key
    assert checkpoint.metric(dtype="bfloat16").signature().fields["dtype"] == "bfloat16"
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(checkpoint.scores(images, PROMPTS), exact)


def on_a_rank(rank: int, size: int, checkpoint: tuple[str, str], shares: list[list[int]]) -> tuple[float, ...]:
    weights, processor = checkpoint
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the prompt hpsv3-")
        metric = HPSv3(weights=weights, processor=processor)
        for i in shares[rank]:
            image = random_images(1, SIZES[i % 4], seed=i)
            metric.update(images=image, prompts=PROMPTS[i % 4], ids=[i])
        result = metric.result()
    return result.value, result.details["sigma"], float(result.n)


def test_ragged_ranks(checkpoint: Checkpoint, worlds: Worlds) -> None:
    paths = checkpoint.new, checkpoint.folder
    alone = worlds(1, on_a_rank, paths, [[0, 1, 2, 3, 4]])[0]
    for shares in ([[0, 1, 2, 3], [4]], [[3, 1], [], [0, 2, 4]]):
        answers = worlds(len(shares), on_a_rank, paths, shares)
        assert len(set(answers)) == 1
        assert answers[0] == pytest.approx(alone, rel=1e-6)
        assert answers[0][2] == 5


def test_offload_leaves_nothing(checkpoint: Checkpoint, images: list[Tensor]) -> None:
    metric = checkpoint.metric(offload=True)
    place = metric.extractor.key, torch.device("cpu")
    metric.update(images=images[:1], prompts=PROMPTS[0], ids=[0])
    assert place in NETWORKS
    first = metric.compute()
    assert place not in NETWORKS
    metric.update(images=images[:1], prompts=PROMPTS[0], ids=[1])
    close(metric.compute(), first, 1e-12)


def test_in_a_suite_under_inference_mode(checkpoint: Checkpoint, images: list[Tensor]) -> None:
    """Metrics with unlike positions share the network; copies and pickles carry no network."""
    suite = MetricSuite({"hpsv3": checkpoint.metric(), "mrope": checkpoint.metric(positions="mrope")})
    with torch.inference_mode():
        suite.update(images, prompts=PROMPTS, ids=torch.arange(4))
    expected = [checkpoint.scores(images, PROMPTS, positions=name)[:, 0].mean() for name in ("sequential", "mrope")]
    assert [suite.compute()[name].item() for name in suite.named()] == pytest.approx([x.item() for x in expected])
    metric = suite["hpsv3"]
    assert not list(metric.parameters())
    twin = pickle.loads(pickle.dumps(metric))
    assert twin.extractor == metric.extractor
    assert twin.compute() == metric.compute()


BROKEN: dict[str, tuple[Callable[[dict[str, Tensor]], Any], str]] = {
    "missing in the backbone": (lambda t: t.pop("model.language_model.norm.weight"), r"missing: .*norm\.weight"),
    "missing in the head": (lambda t: t.pop("rm_head.3.bias"), r"missing: 3\.bias"),
    "no head": (lambda t: [t.pop(k) for k in list(t) if "rm_head" in k], r"rm_head\) .*missing: 0\.bias"),
    "no embeddings": (lambda t: t.pop("model.language_model.embed_tokens.weight"), r"missing: .*embed_tokens"),
    "unexpected": (lambda t: t.update(extra=torch.ones(1)), "unexpected: extra"),
    "a value head": (lambda t: t.update({"rm_head.7.weight": torch.ones(1)}), r"unexpected: 7\.weight"),
    "misshaped": (lambda t: t.update({"rm_head.5.weight": torch.ones(1, 16)}), r"5\.weight is \(1, 16\)"),
    "another width": (
        lambda t: t.update({"model.visual.merger.mlp.2.weight": torch.ones(3, 64)}),
        r"visual\.merger\.mlp\.2\.weight is \(3, 64\)",
    ),
    "without the token": (
        lambda t: t.update({k: t[k][:-1].contiguous() for k in ("model.language_model.embed_tokens.weight",)}),
        r"embeds \d+ tokens, and the tokenizer .* has \d+, <\|Reward\|> included",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_files_that_do_not_fit(checkpoint: Checkpoint, images: list[Tensor], tmp_path: Path, case: str) -> None:
    change, message = BROKEN[case]
    tensors = dict(checkpoint.tensors)
    change(tensors)
    path = tmp_path / "broken.safetensors"
    save_file(tensors, path)
    with pytest.raises(WeightsMismatch, match=message):
        checkpoint.scores(images[:1], PROMPTS[:1], weights=str(path))


def test_what_is_absent(checkpoint: Checkpoint, images: list[Tensor], tmp_path: Path) -> None:
    one = images[:1], PROMPTS[:1]
    with pytest.raises(MissingWeights, match="`weights` for HPSv3 must be an existing file"):
        checkpoint.scores(*one, weights=str(tmp_path / "none.safetensors"))
    with pytest.raises(MissingWeights, match=r"HPSv3.*MizzenAI/HPSv3/resolve/main/HPSv3\.safetensors"):
        checkpoint.scores(*one, weights=None)
    with pytest.raises(MissingWeights, match="Qwen/Qwen2-VL-7B-Instruct"):
        HPSv3(weights=checkpoint.new).update(images=images[0], prompts="a cat")
    with pytest.raises(MissingWeights, match="`path` for hpsv3-instruction"):
        checkpoint.scores(*one, template=str(tmp_path / "none.py"))


def test_the_published_places(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below IMGMETRICS_WEIGHTS, weights and processor are found by the names of their repositories."""
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", str(tmp_path))
    extractor = HPSv3().extractor
    for name, target in {"MizzenAI/HPSv3/HPSv3.safetensors": checkpoint.new, hpsv3.QWEN2_VL: checkpoint.folder}.items():
        with pytest.raises(MissingWeights, match=name.rpartition("/")[2]):  # of either, an offline run needs both
            extractor.prefetch()
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(target)
    assert "/resolve/v2/" in replace(extractor, revision="v2").card.source
    assert extractor.card.license == "MIT"
    assert extractor.prefetch() == extractor.local_path() == tmp_path / "MizzenAI/HPSv3/HPSv3.safetensors"
    image = random_images(1, 448)
    metric = HPSv3()
    metric.update(images=image, prompts="a cat")
    assert metric.compute().item() == pytest.approx(checkpoint.scores(image, ["a cat"])[0, 0].item(), rel=1e-6)


def test_wrong_processors(checkpoint: Checkpoint, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(checkpoint.core)
    CLIPImageProcessor().save_pretrained(tmp_path)
    qwen = config_of(tokenizer)
    blind = CHAT.replace("<|image_pad|>", "")
    for config, chat in ((CLIPVisionConfig().to_dict(), CHAT), (qwen, None), (qwen, blind)):
        tokenizer.chat_template = chat
        tokenizer.save_pretrained(tmp_path)
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(WeightsMismatch, match="`processor` must be a Qwen2-VL whose tokenizer has a chat template"):
            checkpoint.metric(processor=str(tmp_path)).extractor.load()
        (tmp_path / "chat_template.jinja").unlink(missing_ok=True)


def test_arguments(checkpoint: Checkpoint) -> None:
    with pytest.raises(UnknownName, match="`positions` must be one of 'sequential', 'mrope'; got 'rope'"):
        HPSv3(positions="rope")
    with pytest.raises(UnknownName, match="`dtype`"):
        HPSv3(dtype="float16")
    given = checkpoint.metric().extractor
    assert replace(given, dtype="bfloat16") == checkpoint.metric(dtype="bfloat16").extractor != given
    with pytest.raises(ValueError, match=r"`prompts\[1\]` is empty"):
        checkpoint.metric().update(images=random_images(2, 448), prompts=["a cat", " "])


def test_weights_that_give_no_number(checkpoint: Checkpoint, images: list[Tensor], tmp_path: Path) -> None:
    tensors = {**checkpoint.tensors, "rm_head.5.bias": torch.tensor([0.0, float("nan")])}
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(NonFiniteFeatures, match="HPSv3 returned NaN or infinity"):
        checkpoint.scores(images[:1], PROMPTS[:1], weights=str(tmp_path / "nan.safetensors"))


def worded(card: TemplateCard, text: str) -> TemplateCard:
    return replace(card, sha256=hashlib.sha256(text.encode()).hexdigest(), length=len(text))


def test_a_wording_of_ones_own(
    checkpoint: Checkpoint, reference: Reference, images: list[Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The texts of a file take the place of this package's, and their digests that of "generic"."""
    instruction, suffix = "\nRate it. Text - {text_prompt}\n\n", "\nRating: <|Reward|>\n\nEND\n"
    (tmp_path / "own.py").write_text(
        f"HPSV3_INSTRUCTION = {instruction!r}\nHPSV3_PROMPT_WITH_SPECIAL_TOKEN = {suffix!r}\n"
    )
    monkeypatch.setattr(hpsv3, "HPSV3_INSTRUCTION", worded(HPSV3_INSTRUCTION, instruction))
    monkeypatch.setattr(hpsv3, "HPSV3_SUFFIX", worded(HPSV3_SUFFIX, suffix))
    metric = checkpoint.metric(template=str(tmp_path / "own.py"))
    digests = [hashlib.sha256(text.encode()).hexdigest()[:8] for text in (instruction, suffix)]
    assert metric.signature().fields["template"] == "+".join(digests)
    chat = f"{BEFORE}<|image_pad|><|vision_end|>" + instruction.replace("{text_prompt}", "a cat") + suffix + BEHIND
    network = metric.extractor.network(torch.device("cpu"))
    (turn,) = network.turns(["a cat"], *metric.extractor.prompt_template)
    assert turn.tolist() == reference.tokenizer(chat)["input_ids"]
    metric.update(images=images[0], prompts="a cat")
    assert abs(metric.compute().item() - reference(images[0], "a cat")[0].item()) > 1e-3


def test_features_need_no_network(tmp_path: Path) -> None:
    """Images are prepared, and kept, as 8 bits; the weights are asked for when prompts come."""
    extractor = HPSv3Extractor(weights=str(tmp_path / "none"))
    batches = [random_images(2, (100, 200)), random_images(1, 300).float() / 255]
    pixels = extractor(batches, ("pixels",), torch.device("cpu"))["pixels"]
    assert [tuple(x.shape) for x in pixels] == [(3, 336, 644), (3, 336, 644), (3, 448, 448)]
    assert {x.dtype for x in pixels} == {torch.uint8}
    with pytest.raises(ShapeError, match="not feature vectors"):
        extractor.dim("pixels")
