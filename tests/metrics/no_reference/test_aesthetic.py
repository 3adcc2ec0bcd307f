"""The aesthetic predictors against their definition, on random heads in the published layouts and on the real ones."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import Worlds, random_images
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoImageProcessor, CLIPModel

import lightning_imgmetrics.models
from lightning_imgmetrics import CLIPScore, MetricSuite
from lightning_imgmetrics.errors import MissingWeights, SignatureMismatch, UnknownName, WeightsMismatch
from lightning_imgmetrics.metrics.no_reference.aesthetic import AestheticScore
from lightning_imgmetrics.models.base.network import NETWORKS
from lightning_imgmetrics.models.encoders.clip import ClipExtractor
from lightning_imgmetrics.models.scorers.aesthetic import HEADS, AestheticHead

SHELF = os.environ.get("IMGMETRICS_WEIGHTS", "")  # each test has none
CLIP = Path(lightning_imgmetrics.models.__file__).parent / "digits_clip"
CPU = torch.device("cpu")
D = 32  # of the embeddings of digits-clip
WIDTHS = (1024, 128, 64, 16, 1)
LINEAR, RELU, LATER = (0, 2, 4, 6, 7), (0, 3, 6, 9, 11), (0, 2, 4, 6, 8)
TOWER = {
    "vision_model.embeddings.class_embedding": torch.zeros(8),
    "vision_model.embeddings.position_ids": torch.arange(5)[None],
    "visual_projection.weight": torch.zeros(D, 8),
}


def head(places: tuple[int, ...], prefix: str = "layers.", d: int = D, seed: int = 0) -> dict[str, Tensor]:
    """A random head in the layout of the published files; v1 for no places."""
    g = torch.Generator().manual_seed(seed)
    if not places:
        return {"weight": torch.randn(1, d, generator=g), "bias": torch.randn(1, generator=g)}
    found = {}
    for place, width, before in zip(places, WIDTHS, (d, *WIDTHS), strict=False):
        found[f"{prefix}{place}.weight"] = torch.randn(width, before, generator=g) * (2 / before) ** 0.5
        found[f"{prefix}{place}.bias"] = torch.randn(width, generator=g)
    return found


def rating(tensors: dict[str, Tensor], embeddings: Tensor, relu: bool = False) -> Tensor:
    """The definition: unit length, then one affine map after another."""
    x = embeddings.double()
    x = x / x.square().sum(1, keepdim=True).sqrt()
    layers = list(tensors.values())
    for i in range(0, len(layers), 2):
        x = x @ layers[i].double().T + layers[i + 1].double()
        x = x.clamp(min=0) if relu and i + 2 < len(layers) else x
    return x[:, 0]


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("aesthetic") / "linear.pth"
    torch.save(head(LINEAR), path)
    return str(path)


@torch.no_grad()
def embed(images: list[Any]) -> Tensor:
    """What transformers makes of images, one at a time."""
    model, processor = CLIPModel.from_pretrained(CLIP).eval(), AutoImageProcessor.from_pretrained(CLIP)
    pixels = [processor(image, return_tensors="pt").pixel_values for image in images]
    return torch.cat([model.visual_projection(model.vision_model(x).pooler_output) for x in pixels])


def made(path: str | Path, **kwargs: Any) -> AestheticScore:
    return AestheticScore(network="digits-clip", head=str(path), **kwargs)


def saved(tensors: dict[str, Tensor], path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def test_the_score_is_its_definition(linear: str) -> None:
    images = random_images(5, 24)
    expected = rating(head(LINEAR), embed(list(images)))
    assert expected.std() > 0.01  # the head tells images apart
    metric = made(linear)
    metric.update(images, ids=range(5))
    torch.testing.assert_close(metric.scores()[1], expected, rtol=0, atol=1e-5)
    assert metric.compute().item() == pytest.approx(expected.mean().item(), abs=1e-5)
    result = metric.result()
    assert (result.n, result.higher_is_better) == (5, True)
    assert result.details["highest_id"] == expected.argmax()


LAYOUTS: dict[str, tuple[tuple[int, ...], dict[str, Tensor]]] = {
    "v1.pth": ((), head(())),
    "v2-linear.pth": (LINEAR, head(LINEAR)),
    "v2-relu.pth": (RELU, head(RELU)),
    "v2.5.pth": (LATER, head(LATER, "scoring_head.")),
    "v2.5-in-model.pth": (LATER, head(LATER, "layers.scoring_head.")),
    "v2.5-bare.pth": (LATER, head(LATER, "")),
    "wrapped.pth": (LINEAR, head(LINEAR, "module.layers.")),
    "half.pth": (LATER, {key: x.bfloat16() for key, x in head(LATER, "scoring_head.").items()}),
    "with-tower.safetensors": (LINEAR, {**TOWER, **head(LINEAR)}),
    "with-tower-relu.safetensors": (RELU, {**head(RELU), **TOWER}),
    "with-tower-v1.safetensors": ((), {**TOWER, **{f"predictor.{key}": x for key, x in head(()).items()}}),
    "model.safetensors": (LINEAR, {f"model.{key}": x for key, x in {**TOWER, **head(LINEAR)}.items()}),
    "nested.safetensors": (LINEAR, {f"aesthetic_model.{key}": x for key, x in {**TOWER, **head(LINEAR)}.items()}),
    "split.safetensors": (LINEAR, {**TOWER, **head(LINEAR, "aesthetics_predictor.layers.")}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_is_read(name: str, tmp_path: Path) -> None:
    places, tensors = LAYOUTS[name]
    stack = {key: x for key, x in tensors.items() if not any(part in key for part in TOWER)}
    embeddings = 7 * torch.randn(6, D, generator=torch.Generator().manual_seed(5))
    expected = rating(stack, embeddings, relu=places == RELU)
    got = AestheticHead(weights=str(saved(tensors, tmp_path / name))).rate(embeddings)
    torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)
    if places == RELU:
        assert (expected - rating(stack, embeddings)).abs().min() > 1e-3  # it has bends


def test_length_does_not_count_and_zero_stays_zero(linear: str) -> None:
    network = AestheticHead(weights=linear)
    x = torch.randn(3, D, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(network.rate(x), network.rate(1000 * x), rtol=1e-6, atol=1e-6)
    bias = torch.zeros(1, D).double()
    for w, b in zip(*[iter(head(LINEAR).values())] * 2, strict=True):
        bias = bias @ w.double().T + b.double()
    assert network.rate(torch.zeros(1, D)).item() == pytest.approx(bias.item(), abs=1e-5)


def test_any_batch_size_and_form_gives_the_same_scores(linear: str) -> None:
    images = random_images(16, 24)
    whole, single, floats = (made(linear) for _ in range(3))
    whole.update(images, ids=range(16))
    floats.update(images.float() / 255, ids=range(16))
    for i, x in enumerate(images):
        single.update([Image.fromarray(x.permute(1, 2, 0).numpy())], ids=[i])
    for metric in (single, floats):
        torch.testing.assert_close(metric.scores(), whole.scores(), rtol=0, atol=1e-5)


def test_mixed_sizes_opacity_and_oblong_images(linear: str) -> None:
    images = [random_images(1, size, i)[0] for i, size in enumerate([24, (8, 1600), (1600, 8), (30, 50), 24])]
    expected = rating(head(LINEAR), embed(images))
    metric, opaque, clear = (made(linear) for _ in range(3))
    metric.update(images, ids=range(5))
    torch.testing.assert_close(metric.scores()[1], expected, rtol=0, atol=1e-5)
    rgb = Image.fromarray(images[0].permute(1, 2, 0).numpy())
    opaque.update([rgb])
    clear.update([Image.merge("RGBA", [*rgb.split(), Image.new("L", rgb.size, 90)])])
    assert opaque.compute() == clear.compute()


def test_a_suite_runs_the_image_network_once(linear: str, monkeypatch: pytest.MonkeyPatch) -> None:
    images, passes = random_images(4, 24), []
    run = ClipExtractor.run

    def counted(self: ClipExtractor, network: Any, x: Tensor, layers: Any) -> Any:
        passes.append(len(x))
        return run(self, network, x, layers)

    monkeypatch.setattr(ClipExtractor, "run", counted)
    alone = made(linear)
    alone.update(images, ids=range(4))
    suite = MetricSuite({"clip": CLIPScore("digits-clip"), "aesthetic": made(linear)})
    suite.update(images, prompts="a handwritten two", ids=range(4))
    assert passes == [4, 4]
    assert suite.compute()["aesthetic"] == alone.compute()


def test_the_head_is_offloaded_with_the_image_network(linear: str) -> None:
    metric = made(linear, offload=True)
    metric.update(random_images(2, 24))
    keys = {(network.key, CPU) for network in metric.networks}
    assert len(keys) == 2
    assert keys <= NETWORKS.keys()
    metric.compute()
    assert not keys & NETWORKS.keys()
    assert not list(metric.parameters())


def test_the_signature_tells_heads_apart(linear: str, tmp_path: Path) -> None:
    from hashlib import sha256

    metric = made(linear)
    digest = sha256(Path(linear).read_bytes()).hexdigest()[:8]
    expected = {"metric": "aesthetic", "variant": "v2", "head": digest, "network": "digits-clip", "layer": "embed"}
    assert expected.items() <= metric.signature().fields.items()
    other = made(saved(head(LINEAR, seed=1), tmp_path / "other.pth"))
    with pytest.raises(SignatureMismatch, match="head"):
        metric.merge_state(other)
    published = {version: AestheticScore(version).signature().fields for version in HEADS}
    assert len({fields["head"] for fields in published.values()}) == len(HEADS)
    assert published["v2"]["network"] == "openai/clip-vit-large-patch14"
    assert published["v1-b32"]["network"] == "openai/clip-vit-base-patch32"
    assert published["v2.5"]["network"] == "google/siglip-so400m-patch14-384"
    with pytest.raises(UnknownName, match=r"`version` must be one of 'v1'.* got 'v3'"):
        AestheticScore("v3")


# Files


def without(tensors: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: x for key, x in tensors.items() if key not in keys}


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        (without(head(LINEAR), "layers.4.bias"), r"keys missing: 4\.bias$"),
        ({**head(LINEAR), "layers.7.scale": torch.zeros(1)}, r"keys unexpected: 7\.scale$"),
        ({**head(LINEAR), "extra": torch.zeros(1)}, r"keys unexpected: extra$"),
        ({**head(LINEAR), "2.bias": torch.zeros(128)}, r"holds 2\.bias of an aesthetic predictor twice"),
        (
            {**head(LINEAR), "layers.6.weight": torch.zeros(16, 63)},
            r"another shape: 6\.weight is \(16, 63\) and must be \(16, 64\)$",
        ),
        (without(head(LINEAR), "layers.4.bias", "layers.4.weight"), r"must hold `weight` and `bias` \(v1\), or linear"),
        (
            {**head(LINEAR), "layers.9.weight": torch.zeros(1, 1)},
            r"\(0, 3, 6, 9, 11\), \(0, 2, 4, 6, 8\) .* got 0\.weight",
        ),
        (head((0, 1, 2, 3, 4)), r"must hold .*got 0\.weight \(1024, 32\), 0\.bias \(1024,\)"),
        ({**head(()), "weight": torch.zeros(D)}, r"must hold .*got 0\.weight \(32,\)"),
        ({**head(()), "weight": torch.zeros(2, D)}, r"0\.weight is \(2, 32\) and must be \(1, 32\)"),
        (TOWER, "must hold .* got none"),
        ({}, "must hold .* got none"),
    ],
)
def test_keys_that_do_not_fit_are_listed(tensors: dict[str, Tensor], match: str, tmp_path: Path) -> None:
    path = saved(tensors, tmp_path / "head.pth")
    with pytest.raises(WeightsMismatch, match=match):
        made(path).update(random_images(1, 24))


def test_a_head_for_another_network_is_refused(tmp_path: Path) -> None:
    path = saved(head(LINEAR, d=768), tmp_path / "head.pth")
    with pytest.raises(WeightsMismatch, match=r"aesthetic-v2 rates embeddings of 768 numbers, got 32: `model` must be"):
        made(path).update(random_images(1, 24))


def test_damaged_and_harmful_files_are_refused(linear: str, tmp_path: Path) -> None:
    whole = saved(head(LINEAR), tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    trace = tmp_path / "was-run"
    torch.save({**head(LINEAR), "payload": Payload(trace)}, tmp_path / "evil.pth")
    for name in ("cut.safetensors", "evil.pth"):
        with pytest.raises(WeightsMismatch, match=rf"{name} cannot be read as the weights of aesthetic-v2"):
            AestheticHead(weights=str(tmp_path / name)).load()
    assert not trace.exists()
    with pytest.raises(MissingWeights, match=r"`weights` for aesthetic-v2 must be an existing file"):
        AestheticHead(weights=str(tmp_path / "none.pth")).prefetch()


class Payload:
    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.trace}",)


def test_published_heads_are_named_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    url = r"improved-aesthetic-predictor/raw/main/sac%2Blogos%2Bava1-l14-linearMSE\.pth"
    with pytest.raises(MissingWeights, match=rf"{url} .sha256 21dd590f3ccdc646.*{tmp_path}/sac\+logos\+ava1-l14"):
        AestheticHead().prefetch()
    saved(head(LINEAR), tmp_path / "sac+logos+ava1-l14-linearMSE.pth")
    with pytest.raises(WeightsMismatch, match="sha256 must begin with 21dd590f3ccdc646"):
        AestheticHead().prefetch()


def shard(rank: int, size: int, path: str) -> tuple[float, int]:
    """Ranks hold 5, 0 and 2 of seven samples, or all but one and one."""
    images = random_images(7, 24)
    bounds = {1: [0, 7], 2: [0, 6, 7], 3: [0, 5, 5, 7]}[size]
    metric = made(path)
    for i in range(bounds[rank], bounds[rank + 1]):
        metric.update(images[i : i + 1], ids=[i])
    result = metric.result()
    return result.value, result.n


def test_any_split_over_ranks_gives_the_same_number(worlds: Worlds, linear: str) -> None:
    alone = worlds(1, shard, linear)[0]
    assert alone[1] == 7
    for size in (2, 3):
        assert worlds(size, shard, linear) == [alone] * size


# The heads themselves, on the embeddings that their first repository holds

PUBLISHED = {
    "v1": "-2.457909 -0.137857 1.895110 3.584933 5.099726 6.470104 7.786990 9.048002 10.226409 11.304427",
    "v1-b32": "-1.469955 0.272795 1.990020 3.611416 5.087441 6.392551 7.668166 8.915451 9.916607 11.005575",
    "v2": "1.655480 2.359275 3.069824 3.672451 4.238010 4.701021 5.073054 5.365362 5.576664 5.746761",
    "v2-ava-logos": "4.512627 4.476255 4.491877 4.595875 4.705411 4.843347 5.003933 5.147889 5.230896 5.266402",
    "v2-relu": "4.371683 4.192084 4.048485 4.012528 3.989458 4.017800 4.102630 4.208230 4.270448 4.308311",
}


@pytest.mark.parametrize("version", PUBLISHED)
def test_published_heads_on_published_embeddings(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(SHELF) / ("vit_b_32_embeddings" if version == "v1-b32" else "vit_l_14_embeddings")
    needed = [Path(SHELF) / HEADS[version][0].file, *(folder / f"rating{i}.npy" for i in range(10))]
    if not SHELF or not all(path.is_file() for path in needed):
        pytest.skip(f"IMGMETRICS_WEIGHTS was not set, or lacks {needed[0].name} or {folder.name}/rating*.npy")
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", SHELF)
    embeddings = torch.from_numpy(np.concatenate([np.load(path) for path in needed[1:]]))
    expected = [float(x) for x in PUBLISHED[version].split()]
    assert AestheticHead(version).rate(embeddings).tolist() == pytest.approx(expected, abs=5e-6)


def test_published_head_of_v2_5(monkeypatch: pytest.MonkeyPatch) -> None:
    """No vector is published: its own tensors, multiplied out in float64."""
    path = Path(SHELF) / HEADS["v2.5"][0].file
    if not SHELF or not path.is_file():
        pytest.skip(f"IMGMETRICS_WEIGHTS was not set, or lacks {path.name}")
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", SHELF)
    tensors = torch.load(path, map_location="cpu", weights_only=True)
    embeddings = torch.randn(4, 1152, generator=torch.Generator().manual_seed(0))
    expected = rating(tensors, embeddings)
    torch.testing.assert_close(AestheticHead("v2.5").rate(embeddings).double(), expected, rtol=0, atol=1e-5)
