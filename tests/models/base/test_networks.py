"""Where weights come from, and what is refused."""

from __future__ import annotations

import functools
import hashlib
import http.server
import json
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from conftest import TinyNet, random_images
from huggingface_hub import try_to_load_from_cache
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch_fidelity import feature_extractor_inceptionv3 as fidelity

from lightning_imgmetrics import CLIPScore, FrechetDistance, FrechetInceptionDistance
from lightning_imgmetrics.errors import (
    ImgMetricsError,
    MissingExtra,
    MissingWeights,
    NonFiniteFeatures,
    ShapeError,
    UnknownName,
    WeightsMismatch,
    require,
)
from lightning_imgmetrics.models.base.custom import CustomExtractor
from lightning_imgmetrics.models.base.extractor import Extractor, measured_deviation
from lightning_imgmetrics.models.base.resize import RESIZE
from lightning_imgmetrics.models.base.weights import ModelCard, find_weights
from lightning_imgmetrics.models.encoders.clip import ClipExtractor
from lightning_imgmetrics.models.encoders.dinov2 import Dinov2Extractor
from lightning_imgmetrics.models.encoders.inception import INCEPTION, InceptionExtractor
from lightning_imgmetrics.models.encoders.lpips import LpipsExtractor
from lightning_imgmetrics.models.registry import MODELS, as_extractor

CPU = torch.device("cpu")
CONTENT = b"weights of a network"
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache; its folder of checkpoints."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    return tmp_path / "torch" / "hub" / "checkpoints"


class _Handler(http.server.SimpleHTTPRequestHandler):
    served: list[str]

    def do_GET(self) -> None:
        self.served.append(self.path)
        super().do_GET()

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine with `net.pth`; its address, and the paths it was asked for."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    folder = tmp_path / "www"
    folder.mkdir()
    (folder / "net.pth").write_bytes(CONTENT)
    served: list[str] = []
    handler = type("Handler", (_Handler,), {"served": served})
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=str(folder)))
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_address[1]}", served
    web.shutdown()
    web.server_close()


def test_lookup_order(tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = ModelCard("net", "https://example.org/net.pth", "net.pth", DIGEST[:8])
    mine = tmp_path / "mine.pth"
    mine.write_bytes(b"another")
    assert find_weights(card, str(mine)) == mine
    hub.mkdir(parents=True)
    (hub / "net.pth").write_bytes(CONTENT)
    assert find_weights(card) == hub / "net.pth"
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", str(tmp_path / "shelf"))
    assert find_weights(card) == hub / "net.pth"
    (tmp_path / "shelf").mkdir()
    (tmp_path / "shelf" / "net.pth").write_bytes(CONTENT)
    assert find_weights(card) == tmp_path / "shelf" / "net.pth"
    with pytest.raises(MissingWeights, match=r"`weights` for net must be an existing file, got '/nowhere'"):
        find_weights(card, "/nowhere")


def test_wrong_checksum(hub: Path) -> None:
    hub.mkdir(parents=True)
    (hub / INCEPTION.file).write_bytes(CONTENT)
    metric = FrechetInceptionDistance()
    with pytest.raises(WeightsMismatch, match=f"sha256 must begin with 6726825d, got {DIGEST}"):
        metric.update(random_images(1), real=True)


def test_missing_and_offline(hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", str(tmp_path / "shelf"))
    metric = FrechetInceptionDistance()
    with pytest.raises(FileNotFoundError) as caught:
        metric.update(random_images(1), real=True)
    message = str(caught.value)
    for part in (INCEPTION.source, "6726825d", str(tmp_path / "shelf" / INCEPTION.file), str(hub / INCEPTION.file)):
        assert part in message


def test_missing_checkpoint_of_the_hub() -> None:
    with pytest.raises(MissingWeights, match=r"huggingface.co/nobody/nothing.*IMGMETRICS_WEIGHTS/nobody/nothing"):
        CLIPScore("nobody/nothing").update(random_images(1), "a")


def test_one_download_for_all(hub: Path, server: tuple[str, list[str]]) -> None:
    url, served = server
    card = ModelCard("net", f"{url}/net.pth", "net.pth", DIGEST[:8])
    with ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: find_weights(card), range(4)))
    assert set(paths) == {hub / "net.pth"}
    assert served == ["/net.pth"]
    assert (hub / "net.pth").read_bytes() == CONTENT


def test_a_damaged_download_leaves_nothing(hub: Path, server: tuple[str, list[str]]) -> None:
    card = ModelCard("net", f"{server[0]}/net.pth", "net.pth", "00000000")
    with pytest.raises(WeightsMismatch, match=r"net from http://127.0.0.1.*damaged"):
        find_weights(card)
    assert [p.name for p in hub.iterdir() if p.suffix != ".lock"] == []


def test_a_url_that_is_gone(hub: Path, server: tuple[str, list[str]]) -> None:
    card = ModelCard("net", f"{server[0]}/gone.pth", "gone.pth", DIGEST[:8])
    with pytest.raises(MissingWeights, match=r"404.*gone.pth \(sha256"):
        find_weights(card)


class _Trap:
    ran = False

    def __reduce__(self) -> tuple[Any, ...]:
        return setattr, (_Trap, "ran", True)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"a": _Trap()}))
    metric = FrechetInceptionDistance(feature_extractor_weights_path=str(path))
    with pytest.raises(WeightsMismatch, match="cannot be read as the weights of inception-v3-2015"):
        metric.update(random_images(1), real=True)
    assert not _Trap.ran


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(nn.Linear(2, 2).state_dict(), path)
    with pytest.raises(WeightsMismatch, match=r"does not fit inception-v3-2015.*Conv2d_1a_3x3"):
        InceptionExtractor(weights=str(path)).network(torch.device("cpu"))
    with pytest.raises(WeightsMismatch, match=r"does not fit torchvision's alexnet"):
        LpipsExtractor(weights=str(path)).network(torch.device("cpu"))


def test_a_checkpoint_with_missing_keys(tmp_path: Path) -> None:
    source = Path(ClipExtractor().path)
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = load_file(source / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsMismatch, match="visual_projection"):
        ClipExtractor(str(tmp_path)).network(torch.device("cpu"))


def test_loading_does_not_move_the_random_stream(lpips_weights: dict[str, str]) -> None:
    before = torch.get_rng_state()
    CLIPScore("digits-clip").update(random_images(1, 8), "a handwritten one")
    LpipsExtractor("squeeze", lpips_weights["squeeze"]).network(torch.device("cpu"))
    LpipsExtractor("alex", lpips_weights["alex"], image_size=64).dim("maps")
    assert torch.equal(torch.get_rng_state(), before)


def test_embedding_length_of_lpips_trunks(lpips_weights: dict[str, str]) -> None:
    for net, weights in lpips_weights.items():
        extractor = LpipsExtractor(net, weights, image_size=64)
        maps = extractor([random_images(1, 40)], ("maps",), torch.device("cpu"))["maps"]
        assert sum(x.numel() for x in maps) == extractor.dim("maps")
    with pytest.raises(ShapeError, match="set `image_size`"):
        LpipsExtractor("alex").dim("maps")
    with pytest.raises(ShapeError, match="at least 32 x 32"):
        LpipsExtractor("alex", lpips_weights["alex"])([random_images(1, 16)], ("maps",), torch.device("cpu"))


def test_custom_network_is_left_as_it_was() -> None:
    network = nn.Sequential(TinyNet(), nn.Dropout(0.5))
    network[1].eval()
    metric = FrechetDistance(CustomExtractor(network, image_size=(3, 16, 16)))
    flags = [m.training for m in network.modules()]
    metric.update(random_images(4), real=True)
    assert [m.training for m in network.modules()] == flags
    assert all(p.requires_grad and p.grad is None for p in network.parameters())


def test_a_callable_is_a_network() -> None:
    def mean_color(x: torch.Tensor) -> torch.Tensor:
        return x.float().mean((2, 3))

    metric = FrechetDistance(mean_color)
    assert metric.moments.d == 3
    assert "custom-mean_color" in str(metric.signature())


def test_features_that_are_not_finite_or_not_rows() -> None:
    class Broken(nn.Module):
        num_features = 2

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.full((len(x), 2), torch.nan)

    with pytest.raises(NonFiniteFeatures, match=r"custom-Broken returned NaN or infinity at layer 'features'"):
        FrechetDistance(Broken()).update(random_images(2), real=True)
    maps = nn.Conv2d(3, 2, 3)
    maps.num_features = 2
    with pytest.raises(ShapeError, match=r"must return features \(n, d\) for n = 2"):
        FrechetDistance(maps).update(random_images(2).float() / 255, real=True)


def test_missing_extra_gives_the_pip_line() -> None:
    with pytest.raises(MissingExtra, match=r"pip install 'lightning-imgmetrics\[plot\]'"):
        require("no_such_package", "plot")
    assert issubclass(MissingExtra, ImgMetricsError)


# Preprocessing, layers and precision


def by_pillow(image: torch.Tensor, size: int) -> torch.Tensor:
    """One (3, h, w) uint8 image resized to a square by Pillow's bicubic on 8 bits.

    Two calls, as Pillow resized all images in this order before version 13, and the tall ones in the other since.
    """
    pixels = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((size, image.shape[1]), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(pixels.resize((size, size), Image.Resampling.BICUBIC))).permute(2, 0, 1)


@pytest.fixture(scope="module")
def dinov2_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Tiny random DINOv2 checkpoints in the public layout: positions for 224 px, for 518 px, and with registers."""
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2, "patch_size": 14}
    made: dict[str, Any] = {
        "224": transformers.Dinov2Model(transformers.Dinov2Config(**sizes, image_size=224)),
        "518": transformers.Dinov2Model(transformers.Dinov2Config(**sizes, image_size=518)),
        "registers": transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**sizes, image_size=518)
        ),
    }
    folders = {}
    for name, model in made.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            for key, parameter in model.named_parameters():
                if "norm" not in key:
                    parameter.data.normal_(std=0.3)
        folders[name] = str(tmp_path_factory.mktemp("dinov2") / name)
        model.save_pretrained(folders[name])
    return folders


@pytest.mark.parametrize("shape", [(32, 32), (32, 48), (97, 61), (224, 224), (512, 300)])
def test_resize_rules_are_pillows(shape: tuple[int, int]) -> None:
    images = random_images(2, shape, power=8)  # mostly dark: bicubic undershoots
    pillow = torch.stack([by_pillow(image, 224) for image in images]).float()
    rounded = RESIZE["bicubic-antialias-rounded"](images.float(), 224)
    assert (rounded - pillow).abs().max() <= 1
    assert (rounded != pillow).float().mean() < 1e-3  # ties of Pillow's fixed-point arithmetic
    clamped, free = (RESIZE[f"bicubic-antialias{rule}"](images.float(), 224) for rule in ("", "-unclamped"))
    assert torch.equal(free.clamp(0, 255), clamped)
    for c in range(3):
        channel = Image.fromarray(images[0, c].numpy().astype(np.float32), mode="F")
        expected = np.array(channel.resize((224, 224), Image.Resampling.BICUBIC))
        np.testing.assert_allclose(free[0, c].numpy(), expected, atol=5e-3)


@pytest.mark.parametrize("name", ["224", "registers"])
@pytest.mark.parametrize("shape", [(32, 48), (97, 97), (512, 300)])
def test_dinov2_is_the_class_token_of_transformers(
    dinov2_folders: dict[str, str], name: str, shape: tuple[int, int]
) -> None:
    images = random_images(3, shape)
    extractor = Dinov2Extractor(dinov2_folders[name])
    mean, std = (torch.tensor(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    x = (torch.stack([by_pillow(image, 224) for image in images]) / 255 - mean) / std
    gap = (extractor.prepare(images) - x).abs() * std * 255
    assert gap.max() < 1.001
    assert (gap > 0.5).float().mean() < 1e-3
    with torch.no_grad():
        model = transformers.AutoModel.from_pretrained(dinov2_folders[name]).eval()
        expected = model(pixel_values=extractor.prepare(images)).last_hidden_state[:, 0]
    found = extractor([images], ("embed",), CPU)["embed"]
    assert found.shape == (3, extractor.dim("embed")) == (3, 16)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    floating = extractor([images.float() / 255], ("embed",), CPU)["embed"]
    assert torch.equal(floating, found)


def test_dinov2_positions_are_those_of_the_published_code(dinov2_folders: dict[str, str]) -> None:
    """Sampled by hand at (i + 1/2) * 37 / 16.1 - 1/2: bicubic with a = -3/4 and repeated edges, as torch's."""
    learned = transformers.AutoModel.from_pretrained(dinov2_folders["518"]).embeddings.position_embeddings.detach()
    network = Dinov2Extractor(dinov2_folders["518"]).network(CPU)
    found = network.embeddings.position_embeddings
    assert found.shape == (1, 257, 16)
    assert torch.equal(found[:, 0], learned[:, 0])
    at = (torch.arange(16, dtype=torch.float64) + 0.5) * 37 / 16.1 - 0.5
    weights = torch.zeros(16, 37, dtype=torch.float64)
    for i, x in enumerate(at.tolist()):
        for j in range(int(x // 1) - 1, int(x // 1) + 3):
            t = abs(x - j)
            near, far = 1.25 * t**3 - 2.25 * t**2 + 1, -0.75 * (t**3 - 5 * t**2 + 8 * t - 4)
            weights[i, min(max(j, 0), 36)] += near if t <= 1 else far
    grid = torch.einsum("ia,jb,abd->ijd", weights, weights, learned[0, 1:].reshape(37, 37, 16).double())
    torch.testing.assert_close(found[0, 1:].double(), grid.flatten(0, 1), rtol=1e-3, atol=1e-4)
    images = random_images(2, 64)
    theirs = transformers.AutoModel.from_pretrained(dinov2_folders["518"]).eval()
    with torch.no_grad():
        elsewhere = theirs(Dinov2Extractor(dinov2_folders["518"]).prepare(images)).pooler_output
    ours = Dinov2Extractor(dinov2_folders["518"])([images], ("embed",), CPU)["embed"]
    assert (ours - elsewhere).norm() > 1e-3 * ours.norm()  # transformers scales the positions in its own way


def test_dinov2_rules(dinov2_folders: dict[str, str]) -> None:
    images = (random_images(2, 300) > 128).to(torch.uint8) * 255  # bicubic overshoots
    made = {rule: Dinov2Extractor(dinov2_folders["224"], resize=rule) for rule in RESIZE}
    features = {rule: extractor([images], ("embed",), CPU)["embed"] for rule, extractor in made.items()}
    assert len({x.numpy().tobytes() for x in features.values()}) == len(RESIZE)
    assert len({extractor.network(CPU) for extractor in made.values()}) == 1
    digest = hashlib.sha256((Path(dinov2_folders["224"]) / "model.safetensors").read_bytes()).hexdigest()[:8]
    expected = {"network": "224", "weights": digest, "resize": "bicubic-antialias-rounded-224"}
    assert Dinov2Extractor(dinov2_folders["224"]).signature() == expected
    with pytest.raises(UnknownName, match="`resize` must be one of 'tf1-bilinear'"):
        Dinov2Extractor(resize="nearest")
    with pytest.raises(UnknownName, match="`layer` must be one of 'embed'"):
        made["bilinear"].dim("2048")
    with pytest.raises(WeightsMismatch, match="must be a DINOv2 checkpoint, got 'digits-clip' of model type 'clip'"):
        Dinov2Extractor("digits-clip").network(CPU)


def test_checkpoints_that_are_damaged_or_absent(dinov2_folders: dict[str, str], tmp_path: Path) -> None:
    source, target = Path(dinov2_folders["224"]), tmp_path / "copy"
    target.mkdir()
    (target / "config.json").write_bytes((source / "config.json").read_bytes())
    assert Dinov2Extractor(str(target)).local_path() is None
    with pytest.raises(MissingWeights, match="neither a folder nor in the hub cache"):
        Dinov2Extractor(str(target)).network(CPU)
    tensors = (source / "model.safetensors").read_bytes()
    (target / "model.safetensors").write_bytes(tensors[: len(tensors) // 2])
    with pytest.raises(WeightsMismatch, match=r"the checkpoint '.*copy' cannot be read"):
        Dinov2Extractor(str(target)).prefetch()
    (target / "model.safetensors").write_bytes(tensors)
    assert Dinov2Extractor(str(target)).prefetch() == Dinov2Extractor(str(target)).local_path() == target
    kept = load_file(target / "model.safetensors")
    del kept["layernorm.weight"]
    save_file(kept, target / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WeightsMismatch, match=r"does not fit its network: keys missing: layernorm\.weight"):
        Dinov2Extractor(str(target)).network(CPU)
    with pytest.raises(
        MissingWeights, match=r"huggingface.co/facebook/dinov2-large .revision main.*IMGMETRICS_WEIGHTS"
    ):
        Dinov2Extractor().network(CPU)


def test_only_weights_that_are_loaded_are_cited(dinov2_folders: dict[str, str], tmp_path: Path) -> None:
    """In transformers' order: one file, its shards, then the older kinds; not what else lies there."""
    folder = tmp_path / "net"
    shutil.copytree(dinov2_folders["224"], folder)
    extractor = Dinov2Extractor(str(folder))
    before = extractor.signature_fields()["weights"]

    def digest(name: str) -> str:
        return hashlib.sha256((folder / name).read_bytes()).hexdigest()[:8]

    for name in ("adapter.safetensors", "model.fp16.safetensors", "pytorch_model.bin", "training_args.bin"):
        (folder / name).write_bytes(name.encode())
    assert extractor.signature_fields()["weights"] == before == digest("model.safetensors")
    tensors = load_file(folder / "model.safetensors")
    names = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    parts = {key: names[i % 2] for i, key in enumerate(tensors)}
    for name in names:
        save_file({k: x for k, x in tensors.items() if parts[k] == name}, folder / name, metadata={"format": "pt"})
    assert extractor.signature_fields()["weights"] == before
    (folder / "model.safetensors").unlink()
    index = {"metadata": {"total_size": 1}, "weight_map": parts}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert extractor.signature_fields()["weights"] == "+".join(map(digest, names))
    assert extractor.prefetch() == folder
    (folder / names[1]).rename(tmp_path / "away")
    assert extractor.local_path() is None
    (folder / "model.safetensors.index.json").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    assert extractor.signature_fields()["weights"] == digest("pytorch_model.bin")
    assert extractor.prefetch() == folder
    (folder / "pytorch_model.bin").unlink()
    assert extractor.local_path() is None  # whatever else ends in .safetensors or .bin


def test_the_hub_cache(dinov2_folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the hub's client has put into its cache: found offline, verified, its digest in the signature."""
    weights = (Path(dinov2_folders["224"]) / "model.safetensors").read_bytes()
    digest = hashlib.sha256(weights).hexdigest()
    root = tmp_path / "models--facebook--dinov2-large"
    snapshot = root / "snapshots" / ("0" * 40)
    for folder in (snapshot, root / "blobs", root / "refs"):
        folder.mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_bytes((Path(dinov2_folders["224"]) / "config.json").read_bytes())
    (root / "blobs" / digest).write_bytes(weights)
    (snapshot / "model.safetensors").symlink_to(root / "blobs" / digest)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    extractor = MODELS["dinov2-large"]()
    before = try_to_load_from_cache("facebook/dinov2-large", "config.json", cache_dir=tmp_path)
    assert before == str(snapshot / "config.json")
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", functools.partial(try_to_load_from_cache, cache_dir=tmp_path)
    )
    assert extractor.local_path() == snapshot
    assert extractor.signature()["weights"] == digest[:8]
    monkeypatch.setattr(Dinov2Extractor, "load", lambda self: None)  # transformers has read its cache's place before
    assert extractor.prefetch() == snapshot
    (root / "blobs" / digest).write_bytes(weights[:-1] + b"x")
    with pytest.raises(WeightsMismatch, match=f"model.safetensors is damaged: sha256 must be {digest}"):
        extractor.prefetch()


def test_spatial_layer_of_sfid(inception_weights: str) -> None:
    """torch-fidelity's own graph, unfused: what its block's 1x1 branch returns after batch norm and ReLU."""
    extractor = InceptionExtractor(weights=inception_weights)
    graph = fidelity.FeatureExtractorInceptionV3("i", ["2048"], feature_extractor_weights_path=inception_weights)
    kept: list[torch.Tensor] = []
    graph.Mixed_6d.branch1x1.register_forward_hook(lambda module, args, out: kept.append(out))
    images = random_images(2, 299)  # a size that is not resized
    with torch.no_grad():
        graph(images)
    assert kept[0].shape == (2, 192, 17, 17)
    expected = torch.stack([kept[0][:, c] for c in range(7)], -1).reshape(2, 2023)  # (n, h, w, c)
    features = extractor([images], ("sfid", "2048"), CPU)
    assert features["sfid"].shape == (2, extractor.dim("sfid"))
    assert expected.std() > 0.1
    torch.testing.assert_close(features["sfid"], expected, rtol=1e-4, atol=1e-4)
    alone = extractor([images], ("sfid",), CPU)
    assert set(alone) == {"sfid"}
    assert torch.equal(alone["sfid"], features["sfid"])
    assert torch.equal(features["2048"], extractor([images], ("2048",), CPU)["2048"])


RESIZES = "`resize` must be one of 'processor', 'crop-bicubic', 'float-bicubic-antialias', 'float-bicubic'; got 'clean'"


@pytest.mark.parametrize("shape", [(32, 48), (97, 61), (20, 20)])
def test_crop_bicubic_is_the_way_of_cmmd(shape: tuple[int, int]) -> None:
    extractor = ClipExtractor(resize="crop-bicubic")
    images = random_images(3, shape)
    network = extractor.network(CPU)
    size = network.model.config.vision_config.image_size
    height, width = shape
    side = min(shape)
    box = ((width - side) // 2, (height - side) // 2, (width - side) // 2 + side, (height - side) // 2 + side)
    cropped = [Image.fromarray(image.permute(1, 2, 0).numpy()).crop(box) for image in images]
    x = torch.stack([by_pillow(torch.from_numpy(np.array(pixels)).permute(2, 0, 1), size) for pixels in cropped]) / 255
    mean, std = (torch.tensor(getattr(network.image_processor, f"image_{k}"))[:, None, None] for k in ("mean", "std"))
    torch.testing.assert_close(extractor.prepare(images), (x - mean) / std, rtol=0, atol=1.01 / 255 / min(std).item())
    assert extractor.signature() == {**ClipExtractor().signature(), "resize": "crop-bicubic"}
    assert extractor.network(CPU) is ClipExtractor().network(CPU)
    with pytest.raises(UnknownName, match=RESIZES):
        ClipExtractor(resize="clean")


def extractors(
    lpips: dict[str, str], inception: str, dinov2: dict[str, str]
) -> list[tuple[Extractor, tuple[str, ...]]]:
    return [
        (ClipExtractor(), ("embed", "maps")),
        (Dinov2Extractor(dinov2["518"]), ("embed",)),
        (InceptionExtractor(weights=inception), ("sfid", "2048", "logits")),
        (LpipsExtractor("squeeze", lpips["squeeze"], image_size=64), ("maps", "heads")),
        (CustomExtractor(TinyNet()), ("features",)),
    ]


def test_bfloat16(lpips_weights: dict[str, str], inception_weights: str, dinov2_folders: dict[str, str]) -> None:
    images = random_images(3, 40)
    for extractor, layers in extractors(lpips_weights, inception_weights, dinov2_folders):
        half = replace(extractor, dtype="bfloat16")
        features = half([images], layers, CPU)
        for x in features.values():
            assert {part.dtype for part in (x if isinstance(x, list) else [x])} == {torch.float32}
        assert half.signature() == {**extractor.signature(), "dtype": "bfloat16"}
        assert half != extractor
        assert half.network(CPU) is extractor.network(CPU)
        assert 1e-5 < measured_deviation(half, [images], layers, CPU) < 0.1
        assert measured_deviation(extractor, [images], layers, CPU) == 0
    texts = ["a handwritten one", "a handwritten two"]
    half, whole = (ClipExtractor(dtype=dtype).embed_text(texts, CPU)[0] for dtype in ("bfloat16", "float32"))
    assert half.dtype == torch.float32
    assert 0 < (half - whole).norm() < 0.05 * whole.norm()
    with pytest.raises(UnknownName, match="`dtype` must be one of 'float32', 'bfloat16'; got 'float16'"):
        InceptionExtractor(dtype="float16")


def test_precision_is_not_the_trainers(inception_weights: str) -> None:
    extractor, images = InceptionExtractor(weights=inception_weights), random_images(1, 64)
    expected = extractor([images], ("64",), CPU)["64"]
    half = replace(extractor, dtype="bfloat16")([images], ("64",), CPU)["64"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(extractor([images], ("64",), CPU)["64"], expected)
        assert torch.equal(replace(extractor, dtype="bfloat16")([images], ("64",), CPU)["64"], half)


def test_compiled(
    lpips_weights: dict[str, str],
    inception_weights: str,
    dinov2_folders: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Traced, and run as traced: generating code as well would need a compiler and half a minute."""
    traced: list[Any] = []
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda f: traced.append(f) or compiler(f, backend="eager"))
    monkeypatch.setattr("lightning_imgmetrics.models.base.extractor._COMPILED", {})
    for extractor, layers in extractors(lpips_weights, inception_weights, dinov2_folders):
        layers = ("64",) if isinstance(extractor, InceptionExtractor) else layers  # tracing all of it takes seconds
        fast = replace(extractor, compiled=True)
        before = len(traced)
        for n in (3, 2) if isinstance(extractor, LpipsExtractor) else (2,):
            assert measured_deviation(fast, [random_images(n, 40)], layers, CPU) < 1e-5
        assert len(traced) - before == (0 if isinstance(extractor, CustomExtractor) else 1)
        assert fast.signature() == extractor.signature()
        assert fast.network(CPU) is extractor.network(CPU)
    replace(ClipExtractor(), compiled=True, dtype="bfloat16")([random_images(1, 8)], ("embed",), CPU)
    assert len(traced) == 5


def test_deviation_is_the_worst_row() -> None:
    class Off(nn.Module):
        num_features = 2

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            error = 0.25 if torch.is_autocast_enabled("cpu") else 0
            return torch.stack([torch.tensor([3.0, 4.0]), torch.tensor([0.0, 1.0 + error]), torch.zeros(2)])

    extractor = CustomExtractor(Off(), dtype="bfloat16")
    assert measured_deviation(extractor, [random_images(3)], ("features",), CPU) == 0.25


# Names


def test_reading_the_names_loads_no_framework() -> None:
    code = "import sys; from lightning_imgmetrics.models.registry import MODELS; list(MODELS)"
    code += "; print(sorted({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_table_of_models(hub: Path, inception_weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, make in MODELS.items():
        extractor = make()
        assert extractor == make()
        assert extractor.card.source
        open_source = ("Apache-2.0", "BSD-3-Clause", "MIT")
        assert extractor.card.license in {"pickscore": ("",), "aesthetic-v2.5": ("AGPL-3.0",)}.get(name, open_source)
        if name == "digits-clip":
            assert extractor.prefetch() == extractor.local_path()
        else:
            assert extractor.local_path() is None
            with pytest.raises(MissingWeights):
                extractor.prefetch()
    hub.mkdir(parents=True)
    (hub / INCEPTION.file).write_bytes(b"damaged")
    assert MODELS["inception"]().local_path() == hub / INCEPTION.file
    with pytest.raises(WeightsMismatch, match="sha256 must begin with 6726825d"):
        MODELS["inception"]().prefetch()
    assert MODELS["inception"](weights=inception_weights).prefetch() == Path(inception_weights)
    assert MODELS["inception"](weights="/nowhere").local_path() is None
    for own in (CustomExtractor(TinyNet()), ClipExtractor(lambda: (None, None))):
        assert own.local_path() is None
        with pytest.raises(MissingWeights, match="the caller's own network"):
            own.prefetch()


def test_extractor_of(dinov2_folders: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digits = str(ClipExtractor().path)
    net = TinyNet()
    mine = InceptionExtractor("bilinear")
    for network, expected, layer in [
        ("inception", InceptionExtractor(), "2048"),
        ("dinov2", Dinov2Extractor(), "embed"),
        ("dinov2-large", Dinov2Extractor(), "embed"),
        (dinov2_folders["224"], Dinov2Extractor(dinov2_folders["224"]), "embed"),
        (dinov2_folders["registers"], Dinov2Extractor(dinov2_folders["registers"]), "embed"),
        ("facebook/dinov2-small", Dinov2Extractor("facebook/dinov2-small"), "embed"),
        ("digits-clip", ClipExtractor(), "embed"),
        (digits, ClipExtractor(digits), "embed"),
        ("clip-vit-large-patch14-336", ClipExtractor("openai/clip-vit-large-patch14-336"), "embed"),
        ("google/siglip-base-patch16-224", ClipExtractor("google/siglip-base-patch16-224"), "embed"),
        (net, CustomExtractor(net), "features"),
        (mine, mine, "2048"),
    ]:
        assert as_extractor(network) == expected
        assert expected.default_layer == layer
        assert as_extractor(network, dtype="bfloat16") == replace(expected, dtype="bfloat16")
    assert as_extractor(CustomExtractor(net, maps=True)).default_layer == "maps"
    assert as_extractor("inception", resize="tf1-bilinear", scale="unit").resize == "tf1-bilinear"
    assert as_extractor("dinov2", resize="bicubic-antialias-unclamped").resize == "bicubic-antialias-unclamped"
    monkeypatch.setenv("IMGMETRICS_WEIGHTS", str(Path(dinov2_folders["224"]).parent))
    assert as_extractor("224") == Dinov2Extractor("224")  # known by its config, not by its name
    with pytest.raises(TypeError, match="`network` must be a name, a module, a callable or an Extractor, got 3"):
        as_extractor(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'resize'"):
        as_extractor(net, resize="bilinear")
