"""CLIP-IQA: torchmetrics' own code and the definition, on tiny random networks in the public layouts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Worlds, random_images
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import AutoModel, AutoTokenizer, CLIPImageProcessor, CLIPProcessor, PreTrainedTokenizerFast

from lightning_imgmetrics import MetricSuite
from lightning_imgmetrics.errors import MissingExtra, MissingWeights, ShapeError, UnknownName, WeightsMismatch
from lightning_imgmetrics.metrics.no_reference.clip_iqa import PROMPTS, CLIPImageQualityAssessment
from lightning_imgmetrics.models.base.network import TEXT_CACHE
from lightning_imgmetrics.models.encoders.clip_resnet import ClipResNetExtractor

piq = pytest.importorskip("piq", reason="the published CLIP-IQA model is piq's")
from torchmetrics.functional.multimodal.clip_iqa import _clip_iqa_format_prompts  # noqa: E402
from torchmetrics.multimodal.clip_iqa import CLIPImageQualityAssessment as Theirs  # noqa: E402

DIGITS = Path("lightning_imgmetrics/models/digits_clip")
SPECIAL = ["<pad>", "<unk>", "<bos>"]
WORDS = sorted({word.strip(".") for pair in PROMPTS.values() for text in pair for word in text.split()} | {".", "cat"})
LENGTH = 9
PAIR = ("Colorful cat", "Dull cat")
SEVERAL = ("sharpness", PAIR, "quality", ("Old photo", "New cat photo."))


@pytest.fixture(scope="module")
def tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """As CLIP's: the end of text has the largest number."""
    words = [*SPECIAL, *WORDS, "<eos>"]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("<bos>", 2), ("<eos>", len(words) - 1)]
    core.post_processor = processors.TemplateProcessing(single="<bos> $A <eos>", special_tokens=ends)
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<bos>", "eos_token": "<eos>"}
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=core, model_max_length=LENGTH, **names).save_pretrained(folder)
    CLIPImageProcessor().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    """piq's CLIP, tiny, with weights that tell images apart."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = piq.feature_extractors.clip.CLIP(
            embed_dim=8,
            image_resolution=64,
            vision_layers=(1, 2, 1, 1),
            vision_width=2,
            vision_patch_size=0,
            context_length=LENGTH,
            vocab_size=len(SPECIAL + WORDS) + 1,
            transformer_width=64,
            transformer_heads=1,
            transformer_layers=2,
        )
        for name, x in network.state_dict().items():
            if x.ndim > 1 and not name.endswith("token_embedding.weight"):
                x.normal_(std=(4 / x[0].numel()) ** 0.5)
            elif name.endswith(("bias", "running_mean")):
                x.normal_(std=0.1)
    return network.eval()


@pytest.fixture(scope="module")
def weights(resnet: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("weights") / "open_clip_model.safetensors"
    save_file(resnet.state_dict(), path)
    return str(path)


@pytest.fixture
def published(weights: str, tokenizer_folder: str) -> dict[str, str]:
    return {"weights": weights, "processor": tokenizer_folder}


def by_torchmetrics(monkeypatch: pytest.MonkeyPatch, network: nn.Module, folder: str, **kwargs: Any) -> Any:
    """torchmetrics' metric, which asks piq and the hub for the network and the tokenizer."""
    processor = CLIPProcessor.from_pretrained(folder)
    monkeypatch.setattr(piq.clip_iqa.clip, "load", lambda: network)
    monkeypatch.setattr(CLIPProcessor, "from_pretrained", lambda name: processor)
    return Theirs(**kwargs)


def images(n: int, size: int = 48, seed: int = 0) -> Tensor:
    return random_images(n, size, seed)


@torch.no_grad()
def defined(batch: Tensor, prompts: list[tuple[str, str]]) -> Tensor:
    """The definition on digits-clip: 8 x 8 images (n) and pairs (k) -> (n, k)."""
    model, tokenizer = AutoModel.from_pretrained(DIGITS).eval(), AutoTokenizer.from_pretrained(DIGITS)
    tokens = tokenizer([text for pair in prompts for text in pair], padding=True, return_tensors="pt")
    pixels = (batch / 255 - 0.30539703369140625) / 0.37583085894584656
    out = model(**tokens, pixel_values=pixels)
    cosine = torch.cosine_similarity(out.image_embeds[:, None], out.text_embeds[None], dim=2).double()
    positive, negative = cosine[:, ::2], cosine[:, 1::2]
    return 1 / (1 + (100 * (negative - positive)).exp())


@pytest.mark.parametrize("prompts", [("quality",), (PAIR,), SEVERAL, tuple(PROMPTS)])
def test_the_published_model_as_torchmetrics(
    monkeypatch: pytest.MonkeyPatch,
    resnet: nn.Module,
    tokenizer_folder: str,
    published: dict[str, str],
    prompts: tuple[Any, ...],
) -> None:
    batches = [images(3).float() / 255, images(2, 64, seed=1).float() / 255]
    theirs = by_torchmetrics(monkeypatch, resnet, tokenizer_folder, prompts=prompts)
    ours = CLIPImageQualityAssessment(prompts=prompts, **published)
    for batch in batches:
        theirs.update(batch)
        ours.update(batch)
    expected, got = theirs.compute(), ours.compute()
    if isinstance(expected, Tensor):
        expected, got = {"": expected}, {"": got}
    assert list(got) == list(expected)
    for name, scores in expected.items():
        torch.testing.assert_close(got[name], scores.double(), rtol=1e-5, atol=1e-6)
    assert torch.stack(list(got.values())).std(1).max() > 0.003  # images differ by far more than the tolerance


def test_piq_itself(resnet: nn.Module, published: dict[str, str], tokenizer_folder: str) -> None:
    """encode_image and encode_text of the network that was saved, with the tokens set by hand."""
    ends = len(SPECIAL + WORDS)
    rows = [[2, *(3 + WORDS.index(word) for word in text.split()), ends] for text in ("Good photo .", "Bad photo .")]
    tokens = torch.tensor([row + [0] * (LENGTH - len(row)) for row in rows])
    mean, std = torch.tensor([0.48145466, 0.4578275, 0.40821073]), torch.tensor([0.26862954, 0.26130258, 0.27577711])
    pixels = (images(3) / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        image, text = resnet.encode_image(pixels, pos_embedding=False), resnet.encode_text(tokens)
    cosine = torch.cosine_similarity(image[:, None], text[None], dim=2)
    metric = CLIPImageQualityAssessment(**published)
    metric.update(images(3))
    torch.testing.assert_close(metric.compute(), (100 * cosine).softmax(1)[:, 0].double(), rtol=1e-5, atol=1e-6)


def test_any_sizes_and_ranges(published: dict[str, str]) -> None:
    batch = [images(1, size, i)[0] for i, size in enumerate([(32, 32), (48, 70), (70, 48), (48, 70)])]
    whole, single, scaled = (CLIPImageQualityAssessment(data_range=r, **published) for r in (1.0, 1.0, 255))
    whole.update(batch)
    for i, x in enumerate(batch):
        single.update(x[None].float() / 255, ids=[i])
    scaled.update([x.float() for x in batch])
    torch.testing.assert_close(single.compute(), whole.compute(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scaled.compute(), whole.compute(), rtol=1e-5, atol=1e-6)
    with pytest.raises(ShapeError, match=r"at least 32 x 32 pixels, got \(31, 40\)"):
        whole.update(images(1, (31, 40)))


def test_other_models_by_the_definition() -> None:
    """torchmetrics' own path for these fails with transformers 5: `get_image_features` returns no tensor there."""
    batch = images(10, 8)
    pairs = {"user_defined_0": ("two", "three"), "quality": PROMPTS["quality"], "user_defined_1": ("a zero", "a one")}
    expected = defined(batch, list(pairs.values()))
    metric = CLIPImageQualityAssessment("digits-clip", prompts=[["two", "three"], "quality", ("a zero", "a one")])
    metric.update(batch)
    got = metric.compute()
    assert list(got) == list(pairs)
    torch.testing.assert_close(torch.stack(list(got.values()), 1), expected, rtol=1e-4, atol=1e-6)
    assert expected[:, [0, 2]].std(0).min() > 0.01  # of the words of "quality" digits-clip knows none


def test_the_mean_and_its_interval() -> None:
    batch = images(10, 8)
    expected = defined(batch, [("a zero", "a one"), PROMPTS["quality"]])
    prompts = (("a zero", "a one"), "quality")
    mean, each = (CLIPImageQualityAssessment("digits-clip", prompts=prompts, reduction=r) for r in ("mean", "none"))
    for metric in (mean, each):
        metric.update(batch, ids=range(10))
        result = metric.result()
        assert result.value == pytest.approx(float(expected[:, 0].mean()), abs=1e-6)
        assert result.details["quality"] == pytest.approx(float(expected[:, 1].mean()), abs=1e-6)
        assert result.details["standard_error"] == pytest.approx(float(expected[:, 0].std() / 10**0.5), abs=1e-6)
        assert result.interval[0] < result.value < result.interval[1]
    assert mean.compute().ndim == 0
    suite = MetricSuite({"clip_iqa": CLIPImageQualityAssessment("digits-clip", prompts=prompts, reduction="mean")})
    suite.update(batch)
    assert float(suite.compute()["clip_iqa"]) == pytest.approx(float(mean.compute()), abs=1e-6)


def test_one_image_forward_and_batches(published: dict[str, str]) -> None:
    batch = images(16)
    whole, single = (CLIPImageQualityAssessment(**published) for _ in range(2))
    values = [single(batch[i : i + 1]) for i in range(16)]
    assert all(value.ndim == 0 for value in values)  # torchmetrics squeezes what has one element
    whole.update(batch)
    torch.testing.assert_close(torch.stack(values), whole.compute(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(single.compute(), whole.compute(), rtol=1e-4, atol=1e-5)


def test_duplicates_count_once() -> None:
    metric = CLIPImageQualityAssessment("digits-clip")
    metric.update(images(4, 8), ids=[3, 1, 0, 2])
    metric.update(images(4, 8)[1:2], ids=[1])
    metric_sorted = CLIPImageQualityAssessment("digits-clip")
    metric_sorted.update(images(4, 8)[[2, 1, 3, 0]])
    torch.testing.assert_close(metric.compute(), metric_sorted.compute(), rtol=1e-5, atol=1e-7)


def test_long_prompts_are_truncated_before_their_end(published: dict[str, str]) -> None:
    extractor = ClipResNetExtractor(**published)
    cpu = torch.device("cpu")
    long, truncated = extractor.embed_text(["photo " * 20, "cat"], cpu)
    fitting, none = extractor.embed_text(["photo " * (LENGTH - 2)], cpu)
    assert (truncated, none) == (1, 0)
    torch.testing.assert_close(long[0], fitting[0], rtol=1e-4, atol=1e-5)  # batches of one and two round differently
    assert (long[0] - long[1]).norm() > 0.1


@pytest.mark.parametrize(
    "prompts", ["quality", ("quality", 1), (("quality",) * 3,), ("quality", "something"), (("good", 1),), 3, ()]
)
def test_prompts_that_are_none(prompts: Any) -> None:
    """The types of torchmetrics' errors, and where it has one, the beginning of its words."""
    words = (
        "Argument `prompts` must be a tuple|If a tuple is provided in argument|All elements of `prompts` must be one of"
    )
    with pytest.raises(ValueError, match=words):
        CLIPImageQualityAssessment("digits-clip", prompts=prompts)
    if prompts != () and prompts != (("good", 1),):
        with pytest.raises(ValueError, match=words):
            _clip_iqa_format_prompts(prompts)


def test_other_bad_input(tmp_path: Path, published: dict[str, str]) -> None:
    for data_range in (0, -1.0, "1", None, True):
        with pytest.raises(ValueError, match="`data_range` should be a positive number"):
            CLIPImageQualityAssessment("digits-clip", data_range=data_range)
    with pytest.raises(UnknownName, match="`reduction` must be one of 'mean', 'none'; got 'sum'"):
        CLIPImageQualityAssessment("digits-clip", reduction="sum")
    with pytest.raises(ValueError, match="`prompts` must hold 'quality' once"):
        CLIPImageQualityAssessment("digits-clip", prompts=("quality", "quality"))
    wrong = CLIPImageQualityAssessment(weights=str(DIGITS / "model.safetensors"), processor=published["processor"])
    with pytest.raises(
        WeightsMismatch, match=r"no CLIP with a ResNet in open_clip's layout: it lacks 'visual\.attnpool"
    ):
        wrong.update(images(1))


def test_files_with_and_without_counters_and_with_holes(
    tmp_path: Path, resnet: nn.Module, published: dict[str, str]
) -> None:
    tensors = {k: x for k, x in resnet.state_dict().items() if not k.endswith("num_batches_tracked")}
    scores = []
    for name, content in (("bare", tensors), ("half", {k: x.half().float() for k, x in tensors.items()})):
        save_file(content, tmp_path / f"{name}.safetensors")
        metric = CLIPImageQualityAssessment(**published | {"weights": str(tmp_path / f"{name}.safetensors")})
        metric.update(images(3))
        scores.append(metric.compute())
    metric = CLIPImageQualityAssessment(**published)
    metric.update(images(3))
    assert torch.equal(metric.compute(), scores[0])
    assert not torch.equal(metric.compute(), scores[1])  # the weights are used as they are
    save_file({k: x for k, x in tensors.items() if k != "visual.bn1.bias"}, tmp_path / "hole.safetensors")
    with pytest.raises(WeightsMismatch, match=r"keys missing: visual\.bn1\.bias"):
        CLIPImageQualityAssessment(**published | {"weights": str(tmp_path / "hole.safetensors")}).update(images(1))


def test_offline_and_without_piq(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, published: dict[str, str]) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    with pytest.raises(MissingWeights, match=r"timm/resnet50_clip\.openai/resolve/ec3d92cf.*sha256 da0baa37"):
        CLIPImageQualityAssessment().update(images(1))
    shelf = tmp_path / "timm" / "resnet50_clip.openai"
    shelf.mkdir(parents=True)
    (shelf / "open_clip_model.safetensors").write_bytes(Path(published["weights"]).read_bytes())
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", str(tmp_path))
    with pytest.raises(WeightsMismatch, match="sha256 must begin with da0baa37"):
        CLIPImageQualityAssessment().update(images(1))
    monkeypatch.setitem(sys.modules, "piq", None)
    with pytest.raises(MissingExtra, match=r"pip install 'lightning-imgmetrics\[iqa\]'"):
        CLIPImageQualityAssessment().update(images(1))


def test_the_tokenizer_is_fetched_too(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, published: dict[str, str]
) -> None:
    whole, alone = ClipResNetExtractor(**published), ClipResNetExtractor(published["weights"])
    assert whole.prefetch() == whole.local_path() == Path(published["weights"])
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", str(tmp_path))  # which has no tokenizer
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert alone.local_path() is None
    with pytest.raises(MissingWeights, match=r"huggingface.co/openai/clip-vit-base-patch16 .*IMGMETRICS_WEIGHTS"):
        alone.prefetch()
    (tmp_path / "openai").mkdir()
    (tmp_path / "openai/clip-vit-base-patch16").symlink_to(published["processor"])
    assert alone.prefetch() == alone.local_path() == Path(published["weights"])
    assert "processor" not in alone.signature_fields()
    assert whole.signature_fields()["processor"].startswith(f"{Path(published['processor']).name}@")


def test_special_tokens_in_a_prompt_are_letters(published: dict[str, str]) -> None:
    """Or the text behind them would count for nothing; and what is remembered keeps no batch."""
    extractor = ClipResNetExtractor(**published)
    texts = ["a <eos> photo", "a <eos> cat", "a < eos > photo"]
    found, _ = extractor.embed_text(texts, torch.device("cpu"))
    assert (found[0] - found[1]).abs().max() > 1e-3
    torch.testing.assert_close(found[0], found[2], rtol=1e-6, atol=1e-6)
    network = extractor.network(torch.device("cpu"))
    rows = [row for row, _ in TEXT_CACHE[network].values()]
    assert all(row.untyped_storage().nbytes() == row.nbytes for row in rows)


def test_the_signature_says_what_was_asked() -> None:
    fields = CLIPImageQualityAssessment().signature().fields
    assert (fields["network"], fields["weights"], fields["resize"]) == ("clip-rn50-openai", "da0baa37", "none")
    assert CLIPImageQualityAssessment(prompts=SEVERAL).signature().fields["prompts"] == (
        "sharpness+Colorful cat/Dull cat+quality+Old photo/New cat photo."
    )


def _ranks(rank: int, size: int) -> list[float]:
    metric = CLIPImageQualityAssessment("digits-clip", prompts=("quality", ("a zero", "a one")))
    start, stop = {1: [(0, 23)], 2: [(0, 14), (12, 23)], 3: [(0, 9), (0, 0), (7, 23)]}[size][rank]
    for first in range(start, stop, 5):
        rows = list(range(first, min(first + 5, stop)))
        metric.update(images(23, 8)[rows], ids=rows)
    values = metric.compute()
    result = metric.result()
    return [result.value, *result.interval, *(x for column in values.values() for x in column.tolist())]


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_agree(worlds: Worlds, size: int) -> None:
    answers = worlds(size, _ranks)
    assert all(answer == answers[0] for answer in answers)
    assert answers[0] == pytest.approx(_ranks(0, 1), abs=1e-5)
    assert len(answers[0]) == 3 + 2 * 23
