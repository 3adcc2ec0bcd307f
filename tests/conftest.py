"""Shared pieces: worlds of gloo ranks, checkpoints with random weights in the public layouts, small images."""

from __future__ import annotations

import os
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["IMGMETRICS_CACHE"] = tempfile.mkdtemp()  # for the ranks; each test has its own
RANKS = 3


def _rank_main(rank: int, pipe: Any) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("error")
    while True:
        job = pipe.recv()
        if job is None:
            return
        function, args, size, store = job
        try:
            dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=size)
            try:
                pipe.send((True, function(rank, size, *args)))
            finally:
                dist.destroy_process_group()
        except BaseException:
            pipe.send((False, traceback.format_exc()))


class Worlds:
    """`worlds(size, function, *args)` runs `function(rank, size, *args)` on `size` gloo ranks; results by rank."""

    def __init__(self) -> None:
        context = mp.get_context("forkserver")  # which imports once what all ranks need
        context.set_forkserver_preload(["lightning.pytorch", "lightning_imgmetrics.suite", "transformers"])
        self.pipes, self.processes = [], []
        for rank in range(RANKS):
            here, there = context.Pipe()
            process = context.Process(target=_rank_main, args=(rank, there), daemon=True)
            process.start()
            self.pipes.append(here)
            self.processes.append(process)

    def __call__(self, size: int, function: Callable[..., Any], *args: Any) -> list[Any]:
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a store may still be closing
            for pipe in self.pipes[:size]:
                pipe.send((function, args, size, f"{folder}/store"))
            answers = []
            for rank, pipe in enumerate(self.pipes[:size]):
                if not pipe.poll(180):
                    pytest.fail(f"rank {rank} of {size} gave no answer in 180 s")
                answers.append(pipe.recv())
        failed = [f"rank {rank}:\n{text}" for rank, (ok, text) in enumerate(answers) if not ok]
        if failed:
            pytest.fail("\n".join(failed))
        return [value for _, value in answers]

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.send(None)
        for process in self.processes:
            process.join(10)


@pytest.fixture(scope="session")
def worlds() -> Iterator[Worlds]:
    pool = Worlds()
    yield pool
    pool.close()


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small tensors are slower on several threads, the more so where other processes want the cores."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGMETRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("IMGMETRICS_WEIGHTS", raising=False)
    monkeypatch.delenv("COLUMNS", raising=False)  # pytest's workers have one


def random_images(n: int, size: int | tuple[int, int] = 32, seed: int = 0, power: float = 1.0) -> torch.Tensor:
    """Smooth random images (n, 3, h, w) uint8."""
    height, width = (size, size) if isinstance(size, int) else size
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 6, 6, generator=g)
    fine = nn.functional.interpolate(coarse, size=(height, width), mode="bicubic").clamp(0, 1)
    grain = 0.1 * torch.rand(n, 3, height, width, generator=g)
    return ((0.9 * fine**power + grain) * 255).to(torch.uint8)


class TinyNet(nn.Module):
    """A small feature extractor that takes uint8 or float images of any size."""

    num_features = 8

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.conv = nn.Conv2d(3, 8, 3, stride=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.float() / 255 if x.dtype == torch.uint8 else x
        return self.conv(x).relu().mean((2, 3))


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Random Inception-v3 weights in the layout of the public file."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    class Unloaded(fidelity.FeatureExtractorInceptionV3):
        def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> None:
            """The random initial weights stay."""

    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(fidelity, "load_state_dict_from_url", lambda *args, **kwargs: {})
        network = Unloaded("inception", ["2048"])
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.BatchNorm2d):
                for tensor, low, high in (
                    (module.running_mean, -0.2, 0.2),
                    (module.running_var, 0.5, 1.5),
                    (module.weight.data, 0.5, 1.5),
                    (module.bias.data, -0.2, 0.2),
                ):
                    tensor.uniform_(low, high)
    path = tmp_path_factory.mktemp("inception") / "weights-inception-2015-12-05-6726825d.pth"
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.fixture(scope="session")
def lpips_weights(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Random torchvision trunks in the layout of the public files, by LPIPS' name."""
    import torchvision

    folder = tmp_path_factory.mktemp("lpips")
    paths = {}
    for name, file in {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet1_1"}.items():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = getattr(torchvision.models, file)(weights=None)
        paths[name] = str(folder / f"{file}.pth")
        # The classifiers of the public files are large and unused; one is kept to show that it may be there.
        parts = {k: v for k, v in network.state_dict().items() if name == "squeeze" or k.startswith("features.")}
        torch.save(parts, paths[name])
    return paths
