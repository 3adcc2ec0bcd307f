"""What the benchmarks share: timing in turns, rows of a Markdown table, random weights, images and features."""

from __future__ import annotations

import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor, nn

Row = tuple[str, str, str, str, str]
D = 2048


class Sizes(NamedTuple):
    """How much is measured."""

    images: int = 64  # of each side
    pixels: int = 256
    batch: int = 32
    features: int = 50_000  # of each side, as published numbers have it
    subset: int = 1000
    points: int = 10_000  # where the others hold n x n matrices


SMALL = Sizes(images=8, pixels=64, batch=4, features=1500, subset=200, points=500)


def timed(*functions: Callable[[], Any], repeats: int = 3, warm_up: bool = True) -> list[float]:
    """Median seconds of each function; they take turns, so that a drift of the machine affects all of them."""
    seconds: list[list[float]] = [[] for _ in functions]
    for turn in range(repeats + warm_up):
        for function, own in zip(functions, seconds, strict=True):
            start = time.perf_counter()
            function()
            if turn >= warm_up:
                own.append(time.perf_counter() - start)
    return [statistics.median(own) for own in seconds]


def row(what: str, ours: float, theirs: float, aim: str = "") -> Row:
    """A row of seconds."""
    return what, f"{ours:.3f} s", f"{theirs:.3f} s", f"{theirs / ours:.1f}x", aim


def note(what: str, ours: str, theirs: str = "", aim: str = "") -> Row:
    """A row of anything but seconds."""
    return what, ours, theirs, "", aim


def show(rows: Iterable[Row]) -> None:
    """Print the table, each row as soon as it has been measured."""
    warnings.filterwarnings("ignore")
    print(f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}\n")
    print("| what | ours | theirs | ratio | aim |\n|---|---|---|---|---|")
    for cells in rows:
        print(f"| {' | '.join(cells)} |", flush=True)


def random_inception(folder: str) -> str:
    """Inception-v3 in the layout of the public file, with random weights that keep images apart."""
    from torch_fidelity import feature_extractor_inceptionv3 as fidelity

    with (
        torch.random.fork_rng(),
        mock.patch.object(fidelity, "load_state_dict_from_url", return_value={}),
        mock.patch.object(nn.Module, "load_state_dict"),
    ):
        torch.manual_seed(0)
        network = fidelity.FeatureExtractorInceptionV3("inception", ["2048"])
        for module in network.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.bias.data.uniform_(-0.2, 0.2)
    torch.save(network.state_dict(), f"{folder}/inception.pth")
    return f"{folder}/inception.pth"


def smooth_images(n: int, size: int, seed: int, *, contrast: float = 1.0) -> Tensor:
    """Random color gradients with grain: (n, 3, size, size) uint8."""
    g = torch.Generator().manual_seed(seed)
    coarse = torch.rand(n, 3, 6, 6, generator=g)
    fine = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic").clamp(0, 1)
    grain = 0.1 * torch.rand(n, 3, size, size, generator=g)
    return ((0.9 * fine**contrast + grain) * 255).to(torch.uint8)


def pool_features(n: int, seed: int, *, shift: float = 0.0, block: int = 500) -> Iterator[Tensor]:
    """Blocks (block, 2048) of what looks like pool features: positive, of low rank plus noise, n rows in all."""
    directions = torch.randn(64, D, generator=torch.Generator().manual_seed(0)) / 8
    g = torch.Generator().manual_seed(seed)
    for start in range(0, n, block):
        size = min(block, n - start)
        structure = torch.randn(size, len(directions), generator=g) @ directions
        yield (0.4 * structure + 0.1 * torch.randn(size, D, generator=g) + shift).abs_()


class Rows(nn.Module):
    """Takes features instead of images, or images of one pixel row, so that all but the network is measured."""

    num_features = D

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1).float()[:, :D]


def peak_memory() -> float:
    """Peak resident memory of this process in MiB (Linux).

    Not by `getrusage`, whose peak of a new process begins with that of the one which started it.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024
