"""Where weights come from, and what is refused."""

from __future__ import annotations

import functools
import hashlib
import http.server
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TinyNet, random_images
from torch import nn

from lightning_imgmetrics import CLIPScore, FrechetDistance, FrechetInceptionDistance
from lightning_imgmetrics.errors import (
    ImgMetricsError,
    MissingExtra,
    MissingWeights,
    NonFiniteFeatures,
    ShapeError,
    WeightsMismatch,
    require,
)
from lightning_imgmetrics.models.base import CustomExtractor, ModelCard, find_weights
from lightning_imgmetrics.models.inception import INCEPTION, InceptionExtractor
from lightning_imgmetrics.models.lpips_nets import LpipsExtractor

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
    from safetensors.torch import load_file, save_file

    from lightning_imgmetrics.models.clip import ClipExtractor

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
