"""What scorers of images and prompts do besides their formulas: input, ranks, memory, `score`, `PerPrompt`."""

from __future__ import annotations

import copy
import functools
import gc
import itertools
import statistics
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Worlds, random_images
from helpers import checkpoints as made, judge_cases
from helpers.checkpoints import LENGTH, SIDE
from helpers.judges import ScriptedJudge
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from transformers import CLIPModel, CLIPProcessor

from lightning_imgmetrics import (
    METRICS,
    CLIPScore,
    MetricSuite,
    NoiseLevel,
    PerPrompt,
    PickScore,
    score,
)
from lightning_imgmetrics.errors import ImgMetricsError, NotEnoughSamples, ShapeError, UnknownName, ValueRangeError
from lightning_imgmetrics.judges.metrics.ranking import RankingJudge
from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric
from lightning_imgmetrics.metrics.full_reference.psnr import MeanSquaredError
from lightning_imgmetrics.models.base import network as networks
from lightning_imgmetrics.models.encoders.clip import ClipExtractor

CPU = torch.device("cpu")
KEYS = ("clip_score", "siglip_score", "bioclip_score", "pickscore", "hpsv2")
EACH = pytest.mark.parametrize("key", KEYS)
TEXTS = ["a photo of the red cat", "the small dog", "blue house by the lake", "a green cat"]
LONG = 32  # tokens of the longer of the two CLIPs


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny checkpoints: CLIP, one of longer texts, SigLIP, open_clip's layout, and HPSv2's file."""
    root = tmp_path_factory.mktemp("scorers")
    model = made.bpe_clip_model()
    torch.save({"state_dict": made.open_clip_tensors(model)}, root / "HPS.pt")
    return {
        "clip": made.bpe_clip(root / "clip"),
        "long": made.bpe_clip(root / "long", length=LONG),
        "siglip": made.siglip(root / "siglip"),
        "open_clip": made.open_clip_folder(root / "open_clip", model),
        "hps": str(root / "HPS.pt"),
    }


def arguments(key: str, places: dict[str, str]) -> dict[str, Any]:
    return {
        "clip_score": {"network": places["clip"]},
        "siglip_score": {"network": places["siglip"]},
        "bioclip_score": {"network": places["open_clip"]},
        "pickscore": {"network": places["clip"]},
        "hpsv2": {"network": places["clip"], "weights": places["hps"]},
    }[key]


def make(key: str, places: dict[str, str], **kwargs: Any) -> Any:
    return METRICS[key](**arguments(key, places), **kwargs)


def scores(metric: Any, images: Any, prompts: str | Sequence[str]) -> Tensor:
    metric.reset()
    n = len(images) if isinstance(images, Tensor | list) else 1
    metric.update(images=images, prompts=prompts, ids=range(n))
    return metric.scores()[1]


def close(found: Tensor, expected: Tensor, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found.double(), expected.double(), rtol=rtol, atol=atol)


# Prompts


@EACH
def test_prompts_beyond_the_context(places: dict[str, str], key: str) -> None:
    """2000 words score as the words that fit before the end-of-text token; how many were cut is told."""
    metric, images = make(key, places), random_images(4, SIDE)
    words = [made.WORDS[i % len(made.WORDS)] for i in range(2000)]
    fitting = LENGTH - (1 if key == "siglip_score" else 2)
    found = scores(metric, images[:2], [" ".join(words), TEXTS[1]])
    assert metric.result().details["truncated_fraction"] == 0.5
    close(found, scores(metric, images[:2], [" ".join(words[:fitting]), TEXTS[1]]))
    assert metric.result().details["truncated_fraction"] == 0
    metric.update(images=images[2:], prompts=" ".join(words[: fitting + 1]), ids=range(2, 4))
    assert metric.result().details["truncated_fraction"] == 0.5
    assert (found[:1] - scores(metric, images[:1], " ".join(words[1 : fitting + 1]))).abs() > 1e-3


@pytest.mark.parametrize("special", ["<|endoftext|>", "<|startoftext|>"])
def test_special_tokens_in_a_prompt_are_letters(places: dict[str, str], special: str) -> None:
    vocabulary = made.bpe_vocabulary()[0]
    # CLIP's pattern parts letters from signs; no merge joins any of these letters
    inner = special.strip("<|>")
    letters = ["<", "|</w>", *inner[:-1], f"{inner[-1]}</w>", "|", "></w>"]
    tokens = ["<|startoftext|>", "a</w>", *letters, "cat</w>", "<|endoftext|>"]
    ids = torch.tensor([[vocabulary[token] for token in tokens]])
    assert ids.shape[1] <= LONG
    model = CLIPModel.from_pretrained(places["long"]).eval()
    with torch.no_grad():
        hidden = model.text_model(input_ids=ids).last_hidden_state[0, -1]  # the last token, whatever came before
        expected = model.text_projection(hidden)
    found, truncated = ClipExtractor(places["long"]).embed_text([f"a {special} cat", "a cat"], CPU)
    close(found[0], expected)
    assert truncated == 0
    assert (found[0] - found[1]).abs().max() > 1e-2


def test_special_tokens_of_another_tokenizer(places: dict[str, str], tmp_path: Path) -> None:
    """ "<eos>" in a prompt is three unknown words."""
    for folder, own, ends in ((made.word_clip(tmp_path), "<eos>", "[x]"), (places["siglip"], "<eos>", "[x]")):
        found, _ = ClipExtractor(folder).embed_text([f"a {own} cat", f"a {ends} cat", "a cat"], CPU)
        close(found[0], found[1])
        assert (found[0] - found[2]).abs().max() > 1e-2


BAD_PROMPTS: dict[str, tuple[Any, type[Exception], str]] = {
    "empty": (["a cat", "", "a dog"], ValueError, r"`prompts\[1\]` is empty: .* has nothing to compare"),
    "blank": (["a cat", "a dog", " \n\t"], ValueError, r"`prompts\[2\]` is empty"),
    "one empty for all": ("", ValueError, r"`prompts\[0\]` is empty"),
    "too few": (["a cat"], ShapeError, "`prompts` must hold one entry per image, got 1 for 3 images"),
    "none": ([], ShapeError, "`prompts` must hold one entry per image, got 0 for 3 images"),
    "too many": (["a cat"] * 4, ShapeError, "got 4 for 3 images"),
    "numbers": ([1, 2, 3], TypeError, "`prompts` must be texts, got int"),
    "images": (random_images(3, SIDE), TypeError, "`prompts` must be texts"),
    "nothing": (None, TypeError, "prompts"),
}


@EACH
@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_bad_prompts(places: dict[str, str], key: str, case: str) -> None:
    prompts, error, message = BAD_PROMPTS[case]
    metric, images = make(key, places), random_images(3, SIDE)
    for update in (
        metric.update,
        PerPrompt(make(key, places)).update,
        functools.partial(score, key, **arguments(key, places)),
    ):
        with pytest.raises(error, match=message):
            update(images=images, prompts=prompts)
    with pytest.raises(error, match=message):
        MetricSuite({key: metric}).update(images, prompts=prompts)


@EACH
def test_swapped_and_positional_arguments(places: dict[str, str], key: str) -> None:
    metric, images = make(key, places), random_images(2, SIDE)
    with pytest.raises(ShapeError, match=r"`images\[0\]` must be a \(3, h, w\) tensor or a PIL image, got str"):
        metric.update(images=TEXTS[:2], prompts=images)
    with pytest.raises(TypeError):
        metric.update(images, TEXTS[:2], None, TEXTS[:2])
    if key != "clip_score":
        with pytest.raises(TypeError):
            metric.update(images, TEXTS[:2])


@pytest.mark.parametrize(
    "names", ["source images prompts", "source target images", "images", "source prompts", "source"]
)
def test_clip_score_takes_one_way_of_naming(places: dict[str, str], names: str) -> None:
    images = random_images(2, SIDE)
    given = {"source": images, "images": images, "target": TEXTS[:2], "prompts": TEXTS[:2]}
    with pytest.raises(TypeError, match="needs `images=` and `prompts=`, or `source` and `target`"):
        make("clip_score", places).update(**{name: given[name] for name in names.split()})


@EACH
def test_one_prompt_for_all(places: dict[str, str], key: str) -> None:
    metric, images = make(key, places), random_images(3, SIDE)
    close(scores(metric, images, TEXTS[0]), scores(metric, images, TEXTS[:1] * 3), 0, 0)


def test_similarity_and_probabilities_of_bad_input(places: dict[str, str]) -> None:
    metric, images = make("pickscore", places), random_images(2, SIDE)
    with pytest.raises(ShapeError, match="`prompts` must hold at least one text"):
        metric.similarity(images=images, prompts=[])
    with pytest.raises(TypeError, match="`prompts` must be texts, got int"):
        metric.similarity(images=images, prompts=[1])
    with pytest.raises(ValueError, match=r"`prompts\[1\]` is empty"):
        metric.similarity(images=images, prompts=["a cat", ""])
    with pytest.raises(TypeError, match="`prompt` must be one text, got list"):
        metric.probabilities(images=images, prompt=TEXTS[:2])


def test_images_judged_aside_are_not_counted(places: dict[str, str]) -> None:
    metric, images = make("pickscore", places), random_images(2, SIDE).float() / 255
    images[0, 0, 0, :3] = 1.01  # overshoots, and is clamped
    metric.update(images=images, prompts="a cat")
    before = {name: copy.deepcopy(x) for name, x in metric.metric_state.items()}
    assert before["clamped"] == 3
    metric.similarity(images=images, prompts=TEXTS)
    metric.probabilities(images=images, prompt="a cat")
    with pytest.raises(ValueRangeError):
        metric.similarity(images=images * 3, prompts=TEXTS)
    after = metric.metric_state
    assert {name: str(x) for name, x in after.items()} == {name: str(x) for name, x in before.items()}


# Images


@EACH
def test_kinds_of_images(places: dict[str, str], key: str) -> None:
    """Tensors of 8 bits, floats, lists of mixed sizes, PIL images, transparent ones: the same images."""
    metric = make(key, places)
    images = [random_images(1, size, i)[0] for i, size in enumerate([SIDE, (24, 40), (40, 24), SIDE])]
    expected = torch.cat([scores(metric, x[None], text) for x, text in zip(images, TEXTS, strict=True)])
    pictures = [Image.fromarray(x.permute(1, 2, 0).numpy()) for x in images]
    clear = [Image.merge("RGBA", (*p.split(), Image.new("L", p.size, 77))) for p in pictures]
    mixed = [images[0], pictures[1], clear[2], images[3].float() / 255]
    for given in (images, pictures, clear, mixed, [x.float() / 255 for x in images]):
        close(scores(metric, given, TEXTS), expected, 1e-4, 2e-5)
    close(scores(metric, pictures[1], TEXTS[1]), expected[1:2], 1e-4, 2e-5)


@EACH
def test_grey_of_16_bits(places: dict[str, str], key: str) -> None:
    """Divided by 257 and rounded."""
    grey = random_images(1, SIDE)[0, 0]
    deep = Image.fromarray(grey.numpy().astype("uint16") * 257)
    assert deep.mode == "I;16"
    metric = make(key, places)
    close(scores(metric, [deep], "a cat"), scores(metric, grey.expand(1, 3, -1, -1), "a cat"))


@pytest.mark.parametrize("resize", ["processor", "crop-bicubic", "float-bicubic-antialias", "float-bicubic"])
@pytest.mark.parametrize("shape", [(1, 1), (200, 1), (1, 200), (3, 3), (600, 3), (3, 2)])
def test_odd_shapes(
    places: dict[str, str], resize: str, shape: tuple[int, int], caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    """The middle square of what is one color around its middle is that color."""
    color = torch.tensor([200, 30, 90], dtype=torch.uint8)[:, None, None]
    image = color.expand(3, *shape).clone()
    if max(shape) > 3:
        image.flatten(1)[:, :: image[0].numel() - 1] = 0  # the far ends are not seen
    metric = CLIPScore(places["clip"], resize=resize)
    expected = scores(metric, color.expand(1, 3, SIDE, SIDE).clone(), "a cat")
    capfd.readouterr()
    close(scores(metric, image[None], "a cat"), expected, 1e-4, 1e-3)
    assert "ambiguous" not in capfd.readouterr().err + caplog.text


@pytest.mark.parametrize(
    "image", [torch.full((1, 3, 8, 8), 7.0), torch.full((1, 3, 8, 8), -0.2), torch.full((1, 3, 8, 8), torch.nan)]
)
@EACH
def test_floats_out_of_range(places: dict[str, str], key: str, image: Tensor) -> None:
    with pytest.raises(ValueRangeError, match=r"`images` must (lie in \[0, 1\]|be finite)"):
        make(key, places).update(images=image, prompts="a cat")


# Batches, ranks, modules


@EACH
def test_batches_do_not_matter(places: dict[str, str], key: str) -> None:
    metric, images = make(key, places), random_images(16, SIDE)
    prompts = [TEXTS[i % 4] for i in range(16)]
    whole = scores(metric, images, prompts)
    metric.reset()
    for i in range(16):
        metric.update(images=images[i : i + 1], prompts=prompts[i], ids=[i])
    close(metric.scores()[1], whole)
    assert metric.compute().item() == pytest.approx(
        max(whole.mean().item(), 0) if key == "clip_score" else whole.mean().item(), abs=1e-5
    )


def _on_rank(rank: int, size: int, places: dict[str, str], shares: list[list[int]]) -> dict[str, Any]:
    """Every scorer, also over prompts, on this rank's share of 11 samples."""
    found = {}
    rows = shares[rank]
    for key in KEYS:
        for name, metric in ((key, make(key, places)), (f"{key} per prompt", PerPrompt(make(key, places)))):
            if rows:
                prompts = [TEXTS[i % 4] if i else "a " * 50 for i in rows]
                metric.update(images=random_images(11, SIDE)[rows], prompts=prompts, ids=rows)
            result = metric.result()
            found[name] = result.value, result.n, result.interval, dict(result.details)
    return found


def test_ranks(worlds: Worlds, places: dict[str, str]) -> None:
    """Ragged shares and an empty one: the same bits on all ranks, the number of one process."""
    [alone] = worlds(1, _on_rank, places, [list(range(11))])
    for shares in ([[0, 3, 4, 9], [1, 2, 5, 6, 7, 8, 10]], [[10, 0], [], [1, 2, 3, 4, 5, 6, 7, 8, 9]]):
        answers = worlds(len(shares), _on_rank, places, shares)
        for name, (value, n, interval, details) in alone.items():
            for answer in answers:
                assert answer[name] == answers[0][name], name
                assert answer[name][0] == pytest.approx(value, abs=1e-5), name
                assert answer[name][1] == n == 11
                assert answer[name][2] == pytest.approx(interval, abs=1e-4)
                assert answer[name][3] == pytest.approx(details, abs=1e-4), name
            assert details["truncated_fraction"] == 1 / 11


class Holder(nn.Module):
    """A module of the user's with a metric in it."""

    def __init__(self, metric: Any) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)
        self.metric = metric


@EACH
def test_nothing_enters_the_users_module(places: dict[str, str], key: str) -> None:
    for metric in (make(key, places), PerPrompt(make(key, places))):
        holder = Holder(metric)
        before = {name: x.clone() for name, x in holder.state_dict().items()}
        assert set(before) == {"net.weight", "net.bias"}
        metric.update(images=random_images(2, SIDE), prompts="a cat")
        metric.compute()
        after = holder.state_dict()
        assert set(after) == set(before)
        assert all(torch.equal(after[name], x) for name, x in before.items())
        assert {name for name, _ in holder.named_parameters()} == set(before)
        assert not list(metric.modules())[1:]
        holder.load_state_dict(before)


# Memory


def live_bytes() -> int:
    """Bytes of all tensors that are alive, each storage once."""
    gc.collect()
    storages = {}
    for x in gc.get_objects():
        real = type(x) in (Tensor, nn.Parameter)  # what torch.compile traced elsewhere has no storage
        if real and not torch._is_functional_tensor(x) and x.device.type == "cpu":
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
    return sum(storages.values())


@EACH
@pytest.mark.parametrize("per_prompt", [False, True])
def test_offload(places: dict[str, str], tmp_path: Path, key: str, per_prompt: bool) -> None:
    """After compute nothing of the network is alive; the next update loads it again and scores the same."""
    for name in places:  # own places: a network that others loaded would be theirs to free
        (tmp_path / name).symlink_to(places[name])
    metric = make(key, {name: str(tmp_path / name) for name in places}, offload=True)
    metric = PerPrompt(metric) if per_prompt else metric
    images = random_images(4, SIDE)
    start = live_bytes()
    metric.update(images=images, prompts=TEXTS, ids=range(4))
    loaded = networks.NETWORKS[metric.extractor.key, CPU]
    size = sum(x.numel() * x.element_size() for x in loaded.parameters())
    assert size > 30_000
    assert live_bytes() >= start + size
    assert loaded in networks.TEXT_CACHE
    alive, texts = weakref.ref(loaded), len(networks.TEXT_CACHE)
    del loaded
    value = metric.compute()
    assert live_bytes() - start < 2_000  # the scores
    assert alive() is None
    assert len(networks.TEXT_CACHE) == texts - 1
    assert (metric.extractor.key, CPU) not in networks.NETWORKS
    metric.reset()
    metric.update(images=images, prompts=TEXTS, ids=range(4))
    close(metric.compute(), value)
    assert live_bytes() - start < 2_000


def test_score_offloads_too(places: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "clip").symlink_to(places["clip"])
    given = {"images": random_images(4, SIDE), "prompts": TEXTS, "network": str(tmp_path / "clip")}
    start = live_bytes()
    found = score("pickscore", offload=True, **given)
    assert live_bytes() - start < 2_000
    close(found, score("pickscore", **given))
    assert live_bytes() - start > 30_000


class Watched(CLIPModel):
    """Counts what it embeds, and has memory for so many at once."""

    room = 1_000
    images: list[int]
    texts: list[int]

    def get_image_features(self, pixel_values: Tensor, **kwargs: Any) -> Any:
        self.enter(len(pixel_values), type(self).images)
        return super().get_image_features(pixel_values=pixel_values, **kwargs)

    def get_text_features(self, input_ids: Tensor, **kwargs: Any) -> Any:
        self.enter(len(input_ids), type(self).texts)
        return super().get_text_features(input_ids=input_ids, **kwargs)

    def enter(self, n: int, seen: list[int]) -> None:
        if n > type(self).room:
            raise torch.OutOfMemoryError(f"no room for {n}")
        seen.append(n)


@pytest.fixture
def watched(places: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Callable[[], Any]:
    """A callable, new in each test, that gives a `Watched`."""
    monkeypatch.setattr(Watched, "images", [], raising=False)
    monkeypatch.setattr(Watched, "texts", [], raising=False)

    def watched() -> tuple[CLIPModel, CLIPProcessor]:
        processor = CLIPProcessor(made.clip_images(), made.bpe_tokenizer())
        return Watched.from_pretrained(places["clip"]), processor

    return watched


@pytest.mark.parametrize(("room", "parts"), [(3, [2] * 8), (16, [16]), (7, [4] * 4), (1, [1] * 16)])
def test_out_of_memory_halves_the_batch(
    places: dict[str, str], watched: Any, monkeypatch: pytest.MonkeyPatch, room: int, parts: list[int]
) -> None:
    images, prompts = (
        random_images(16, SIDE),
        [" ".join([word, *TEXTS[i % 4].split()[:3]]) for i, word in enumerate((made.WORDS * 2)[:16])],
    )
    assert len(set(prompts)) > 8
    expected = scores(CLIPScore(places["clip"]), images, prompts)
    monkeypatch.setattr(Watched, "room", room)
    close(scores(CLIPScore(watched), images, prompts), expected, 1e-5, 1e-4)
    assert Watched.images == parts
    assert sum(Watched.texts) == len(set(prompts))
    assert max(Watched.texts) <= room


def test_no_memory_for_one(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watched, "room", 0)
    with pytest.raises(ImgMetricsError, match="one image is too large for the device") as error:
        CLIPScore(watched).update(random_images(4, SIDE), TEXTS)
    assert isinstance(error.value.__cause__, torch.OutOfMemoryError)


def test_a_text_is_embedded_once(watched: Any) -> None:
    metric, images = PickScore(watched), random_images(8, SIDE)
    for _ in range(3):
        metric.update(images=images, prompts=TEXTS * 2)
    assert Watched.texts == [4]
    CLIPScore(watched).update(images, ["a cat", *TEXTS, "a cat", TEXTS[0], TEXTS[1]])  # the same network
    assert Watched.texts == [4, 1]
    assert Watched.images == [8] * 4


def test_texts_of_another_dtype_are_others(watched: Any) -> None:
    exact, rough = ClipExtractor(watched), ClipExtractor(watched, dtype="bfloat16")
    assert exact.network(CPU) is rough.network(CPU)
    for _ in range(2):
        x, y = (extractor.embed_text(TEXTS, CPU)[0] for extractor in (exact, rough))
    assert Watched.texts == [4, 4]
    assert 1e-4 < (x - y).abs().max() < 0.3
    assert x.dtype == y.dtype == torch.float32


def test_what_is_remembered_is_bounded(watched: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The texts of long ago are forgotten, and what is kept of a batch does not keep the rest of it."""
    monkeypatch.setattr(networks, "_CACHED_TEXTS", 3)
    extractor = ClipExtractor(watched)
    found, _ = extractor.embed_text([*TEXTS, "a dog", "the dog"], CPU)
    assert len(found) == 6  # more than fit are still all embedded
    kept = networks.TEXT_CACHE[extractor.network(CPU)]
    assert [text for _, text in kept] == [TEXTS[3], "a dog", "the dog"]
    assert all(row.untyped_storage().nbytes() == row.numel() * 4 for row, _ in kept.values())
    extractor.embed_text([TEXTS[3]], CPU)
    extractor.embed_text(["a cat"], CPU)
    assert [text for _, text in kept] == ["the dog", TEXTS[3], "a cat"]
    assert sum(Watched.texts) == 7


# score()

PAIRED = ("mse", "psnr", "ssim", "vif")
ALONE = ("sharpness", "noise", "exposure", "saturation", "contrast", "colorfulness", "blank_rate")
OTHERS = {  # of other networks than CLIP's, or larger images
    "imagereward", "hpsv3", "aesthetic", "clip_iqa", "lpips", "dists", "ms_ssim", "safety_rate", "artifact_rate",
}  # fmt: skip


def kinds() -> dict[str, type]:
    return {key: getattr(maker, "func", maker) for key, maker in METRICS.items()}


def scoring() -> set[str]:
    return {key for key, kind in kinds().items() if issubclass(kind, ScoreMetric)}


def test_every_scoring_key_is_tried() -> None:
    judged = {key for key, _, _ in judge_cases.JUDGED.values()}
    assert scoring() == {*KEYS, *PAIRED, *ALONE} | (OTHERS & set(METRICS)) | judged


@pytest.mark.parametrize("key", [*KEYS, *PAIRED, *ALONE])
def test_score(places: dict[str, str], key: str) -> None:
    """One image at a time by the metric's own update; images of three sizes, in batches of another size."""
    sizes = [64, (48, 70), 64, 64, (70, 48)]
    images = [random_images(1, size, i)[0] for i, size in enumerate(sizes)]
    target = [random_images(1, size, 10 + i)[0] for i, size in enumerate(sizes)]
    images[3] = images[3] if key != "blank_rate" else torch.full_like(images[3], 9)
    given: dict[str, Any] = arguments(key, places) if key in KEYS else {}
    metric: Any = METRICS[key](**given)
    inputs: dict[str, Any] = {}
    inputs |= {"prompts": [*TEXTS, TEXTS[0]]} if key in KEYS else {}
    inputs |= {"target": target} if key in PAIRED else {}
    for i, image in enumerate(images):
        if key in KEYS:
            metric.update(images=image, prompts=inputs["prompts"][i], ids=[i])
        else:
            metric.update(*([image[None], target[i][None]] if key in PAIRED else [image[None]]), ids=[i])
    found = score(key, images=images, batch_size=2, **inputs, **given)
    assert found.dtype == torch.float64
    assert found.shape == (5,)
    close(found, metric.scores()[1], 1e-5, 1e-5)
    assert len(set(found.tolist())) > 1
    floats = [x.float() / 255 for x in images]
    inputs |= {"target": [x.float() / 255 for x in target]} if key in PAIRED else {}
    close(score(key, images=floats, **inputs, **given), found, 1e-5, 1e-5)
    centered = [x * 2 - 1 for x in floats]
    inputs |= {"target": [x * 2 - 1 for x in inputs["target"]]} if key in PAIRED else {}
    close(score(key, images=centered, value_range=(-1, 1), **inputs, **given), found, 1e-5, 1e-5)


@pytest.mark.filterwarnings("ignore:the prompt (viescore|unified-reward|qwen-image-bench)-:UserWarning")
@pytest.mark.parametrize("case", judge_cases.JUDGED)
def test_score_by_a_judge(case: str) -> None:
    """In batches of any size, what the metric's own update gives, NaN where it gives none."""
    key, arguments, _ = judge_cases.JUDGED[case]
    metric, inputs = judge_cases.make(case), judge_cases.given(case, range(11))
    metric.update(**{**inputs, "ids": range(11)})
    expected = metric.scores()[1]
    inputs.pop("ids", None)
    for batch_size in (3, 32):
        found = score(key, batch_size=batch_size, **inputs, **arguments())
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0, equal_nan=True)
    assert len(set(found.tolist())) > 1


def test_score_by_a_judge_hangs_on_the_place_of_an_image_and_not_on_the_batch() -> None:
    """Orders of a ranking are drawn by place; this judge takes the picture that it is shown first for the best."""
    inputs = judge_cases.given("ranking_judge", range(11))
    judge = ScriptedJudge(lambda q: '{"reasoning": "it is the first", "ranking": [1, 2, 3]}')
    metric = RankingJudge(judge, shuffles=1)
    metric.update(**inputs, ids=range(11))
    for batch_size in (1, 4, 32):
        found = score("ranking_judge", batch_size=batch_size, judge=judge, shuffles=1, **inputs)
        assert torch.equal(found, metric.scores()[1])
    assert len(set(found.tolist())) > 1


def test_score_is_the_definition(places: dict[str, str]) -> None:
    model = CLIPModel.from_pretrained(places["clip"]).eval()
    images = random_images(3, SIDE)
    tokens = made.bpe_tokenizer()(TEXTS[:3], padding=True, return_tensors="pt")
    pixels = made.clip_images()(list(images), return_tensors="pt").pixel_values
    with torch.no_grad():
        text, image = model.get_text_features(**tokens).pooler_output, model.get_image_features(pixels).pooler_output
        expected = model.logit_scale.exp() * cosine_similarity(text, image)
    close(score("pickscore", images=images, prompts=TEXTS[:3], network=places["clip"]), expected)


def test_score_takes_floats_of_one_range() -> None:
    """[0, 1] also where the metric's own floats are others by default, as LPIPS' are."""
    images, target = random_images(3, SIDE), random_images(3, SIDE, 1)
    expected = score("lpips", net_type="digits-clip", images=images, target=target)
    close(score("lpips", net_type="digits-clip", images=images / 255, target=target / 255), expected)
    assert expected.min() > 0


def test_score_measures_8_bit_images() -> None:
    """Floats score as the files that they become, as in a suite."""
    floats = torch.rand(3, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0)) / 50
    expected = score("noise", images=(floats * 255).round().to(torch.uint8))
    close(score("noise", images=floats), expected, 1e-6, 0)
    suite = MetricSuite(["noise"])
    suite.update(floats, ids=range(3))
    close(suite["noise"].scores()[1], expected, 1e-6, 0)


def test_keys_that_score_no_images() -> None:
    for key in [*sorted(set(METRICS) - scoring()), "nonsense"]:
        with pytest.raises(UnknownName) as error:
            score(key, images=random_images(2, SIDE))
        listed = str(error.value).partition("one of ")[2].partition("; got")[0].replace("'", "").split(", ")
        assert set(listed) == scoring()
        assert str(error.value).endswith(f"got {key!r}")


def test_score_of_bad_input(places: dict[str, str]) -> None:
    images = random_images(3, SIDE)
    with pytest.raises(TypeError, match="metric 'pickscore' needs `prompts=`"):
        score("pickscore", images=images, network=places["clip"])
    with pytest.raises(TypeError, match="metric 'mse' needs `target=`"):
        score("mse", images=images)
    with pytest.raises(ShapeError, match="`target` must hold one entry per image, got 2 for 3 images"):
        score("mse", images=images, target=images[:2])
    with pytest.raises(ShapeError, match="at least one image"):
        score("noise", images=images[:0])
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"`batch_size` must be at least 1, got {size}"):
            score("noise", images=images, batch_size=size)
    with pytest.raises(ValueRangeError, match="`images` must lie in"):
        score("noise", images=images.float())


# PerPrompt


def samples(n: int = 10) -> tuple[Tensor, list[str]]:
    """10 images of 3 prompts that have 5, 3 and 2 of them, mixed."""
    order = [0, 1, 0, 2, 1, 0, 0, 2, 1, 0]
    return random_images(n, SIDE, 5), [TEXTS[i] for i in order[:n]]


def by_prompt(values: Tensor, prompts: list[str]) -> list[list[float]]:
    return [
        [v for v, p in zip(values.tolist(), prompts, strict=True) if p == prompt] for prompt in dict.fromkeys(prompts)
    ]


def expected_of(groups: list[list[float]], lower: bool) -> tuple[float, float, dict[str, float]]:
    """Mean of means, its clustered error, and the details, from all subsets."""
    means = [statistics.fmean(group) for group in groups]
    best, worst = (min, max) if lower else (max, min)
    n, p, fewest = sum(map(len, groups)), len(groups), min(map(len, groups))
    details = {"n_prompts": p, "samples_per_prompt": n / p}
    for k in sorted({k for k in (1, 2, 4, 8) if k <= fewest} | {fewest}):
        for name, pick in (("best", best), ("worst", worst)):
            each = [statistics.fmean(pick(some) for some in itertools.combinations(group, k)) for group in groups]
            details[f"{name}_of_{k}"] = statistics.fmean(each)
    details |= {f"{name}_of_n": details[f"{name}_of_{fewest}"] for name in ("best", "worst")}
    grand = sum(map(sum, groups)) / n
    within = sum((x - m) ** 2 for group, m in zip(groups, means, strict=True) for x in group) / (n - p)
    between = sum(len(group) * (m - grand) ** 2 for group, m in zip(groups, means, strict=True)) / (p - 1)
    effective = (n - sum(len(group) ** 2 for group in groups) / n) / (p - 1)
    details |= {"variance_within": within, "variance_between": (between - within) / effective, "spread": within**0.5}
    return statistics.fmean(means), statistics.stdev(means) / p**0.5, details


@pytest.mark.parametrize("key", [*KEYS, "noise", "mse"])
def test_per_prompt(places: dict[str, str], key: str) -> None:
    """Unequal numbers of samples; of "noise" and "mse" the best is the lowest."""
    images, prompts = samples()
    target = random_images(10, SIDE, 6)
    if key in KEYS:
        single = make(key, places)
        single.update(images=images, prompts=prompts, ids=range(10))
        metric = PerPrompt(make(key, places))
    else:
        kind = {"noise": NoiseLevel, "mse": MeanSquaredError}[key]
        single, metric = kind(), PerPrompt(kind())
        single.update(images, *([target] if key == "mse" else []), ids=range(10))
    lower = key not in KEYS
    value, error, details = expected_of(by_prompt(single.scores()[1], prompts), lower)
    for part in (slice(0, 7), slice(7, 10)):
        extra = {"target": target[part]} if key == "mse" else {}
        metric.update(images=images[part], prompts=prompts[part], ids=range(10)[part], **extra)
    result = metric.result()
    assert result.name == f"{single.name}_per_prompt"
    assert result.value == pytest.approx(value, rel=1e-5, abs=1e-6)
    assert result.n == 10
    assert result.details["standard_error"] == pytest.approx(error, rel=1e-4)
    for name, x in details.items():
        assert result.details[name] == pytest.approx(x, rel=1e-4, abs=1e-6), name
    half = (result.interval[1] - result.interval[0]) / 2
    assert half == pytest.approx(4.302652729911275 * error, rel=1e-4)  # Student's t of 2 degrees of freedom, 97.5 %
    assert metric.higher_is_better is (not lower)
    first, second = (result.details[f"{name}_of_2"] for name in ("best", "worst"))
    assert (first < second) if lower else (first > second)


def test_per_prompt_of_few(places: dict[str, str]) -> None:
    images, _ = samples()
    metric = PerPrompt(make("pickscore", places))
    with pytest.raises(NotEnoughSamples, match="has 0 samples and needs 1"):
        metric.compute()
    metric.update(images=images[:4], prompts="a cat")
    one = metric.result()
    assert one.interval is None
    assert "standard_error" not in one.details
    assert "variance_between" not in one.details
    assert one.details["best_of_n"] >= one.value >= one.details["worst_of_n"]
    metric.reset()
    metric.update(images=images[:4], prompts=TEXTS)
    alone = metric.result()
    assert alone.interval is not None
    assert "spread" not in alone.details
    assert alone.details["best_of_1"] == pytest.approx(alone.value) == pytest.approx(alone.details["worst_of_n"])


def test_per_prompt_keeps_what_the_metric_counts(places: dict[str, str]) -> None:
    images, prompts = samples()
    prompts = [f"{p} by the lake of the small dog" if p == TEXTS[0] else p for p in prompts]
    inner = make("clip_score", places)
    metric = PerPrompt(inner)
    metric.update(images=images, prompts=prompts)
    assert metric.result().details["truncated_fraction"] == 0.5
    assert inner.texts == 0  # counted once, where ranks are joined
    metric.update(images=images, prompts=[*["a cat"] * 10])
    assert metric.result().details["truncated_fraction"] == 0.25
    metric.reset()
    metric.update(images=images, prompts="a dog")
    assert metric.result().details["truncated_fraction"] == 0


def test_per_prompt_of_bad_input(places: dict[str, str]) -> None:
    images, prompts = samples()
    with pytest.raises(TypeError, match="`metric` must be a score of single samples, got FrechetDistance"):
        PerPrompt(METRICS["fd_digits_clip"]())  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="pickscore takes no `target`"):
        PerPrompt(make("pickscore", places)).update(images=images, prompts=prompts, target=images)
    with pytest.raises(TypeError, match="mse needs `target`"):
        PerPrompt(MeanSquaredError()).update(images=images, prompts=prompts)
    for rows in (1, 8):
        with pytest.raises(ShapeError, match=f"`target` must hold one entry per image, got {rows} for 10"):
            PerPrompt(MeanSquaredError()).update(images=images, prompts=prompts, target=images[:rows])
    assert PerPrompt(make("pickscore", places, offload=True)).offload
    assert not PerPrompt(make("pickscore", places, offload=True), offload=False).offload


def test_per_prompt_in_a_suite_shares_the_pass(watched: Any) -> None:
    images, prompts = samples()
    suite = MetricSuite({"a": PickScore(watched), "b": PerPrompt(PickScore(watched)), "c": CLIPScore(watched)})
    suite.update(images, prompts=prompts, ids=range(10))
    assert Watched.images == [10]
    assert Watched.texts == [3]
    results = suite.results()
    means = [statistics.fmean(group) for group in by_prompt(suite["a"].scores()[1], prompts)]
    assert results["b"].value == pytest.approx(statistics.fmean(means), rel=1e-6)
    assert results["a"].value == pytest.approx(suite["a"].scores()[1].mean().item(), rel=1e-6)
