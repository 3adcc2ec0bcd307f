"""What the callback tests share: a tiny generative model, its data, a trainer, ranks inside the pool of `worlds`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from conftest import random_images
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.plugins.environments import ClusterEnvironment
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_imgmetrics import FrechetDistance, ImageMetricsCallback, noise

torch.set_num_threads(1)  # the networks are tiny, and threads that wait for each other on a busy machine are slow
PROMPTS = ["a handwritten zero", "a handwritten one", "a handwritten two"]


class Pixels(nn.Module):
    """Features in float64, so that values do not depend on how the images were cut into batches."""

    num_features = 6

    def __init__(self) -> None:
        super().__init__()
        self.passes = 0
        weight = torch.randn(192, self.num_features, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        self.register_buffer("weight", weight)

    def forward(self, x: Tensor) -> Tensor:
        self.passes += len(x)
        return (x.flatten(1).double()[:, :, None] / 255 * self.weight).sum(1)


class Painter(LightningModule):
    """Learns a mean image; dropout, batch norm and random augmentation make its training depend on every RNG draw."""

    def __init__(self, lr: float = 0.05) -> None:
        super().__init__()
        self.lr = lr
        with torch.random.fork_rng():
            torch.manual_seed(1)
            self.mean = nn.Parameter(torch.randn(3, 8, 8))
            self.body = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm2d(3), nn.Dropout(0.3))
            self.frozen = nn.Sequential(nn.BatchNorm2d(3)).requires_grad_(False)

    def on_train_start(self) -> None:
        self.frozen.eval()

    def loss(self, images: Tensor) -> Tensor:
        return (self.body(images + 0.1 * torch.randn_like(images)) + self.mean - images).square().mean()

    def training_step(self, batch: Sequence[Tensor], batch_idx: int) -> Tensor:
        flipped = batch[0].flip(3) if torch.rand(()) < 0.5 else batch[0]
        return self.loss(flipped)

    def validation_step(self, batch: Sequence[Tensor], batch_idx: int) -> None:
        self.log("val_loss", self.loss(batch[0]), sync_dist=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW([p for p in self.parameters() if p.requires_grad], lr=self.lr)

    def sample(self, generators: list[torch.Generator]) -> Tensor:
        return (self.mean + noise(generators, (3, 8, 8), self.device)).sigmoid()


def data(n: int = 24, seed: int = 0) -> TensorDataset:
    return TensorDataset(random_images(n, 8, seed).float() / 255, torch.arange(n) % 10)


def loaders(n: int = 24, batch_size: int = 8) -> tuple[DataLoader, DataLoader]:
    """A shuffled training loader and a validation loader."""
    return DataLoader(data(n), batch_size, shuffle=True), DataLoader(data(n, seed=1), batch_size)


def monitor(metrics: Any = None, **kwargs: Any) -> ImageMetricsCallback:
    """The callback, small, and without the panels that take most of the time of such a fit."""
    metrics = {"fd": FrechetDistance(Pixels())} if metrics is None else metrics
    return ImageMetricsCallback(metrics, **{"num_samples": 12, "batch_size": 5, "media": 0, **kwargs})


def trainer(folder: Path | str, *callbacks: Any, **kwargs: Any) -> Trainer:
    """A quiet CPU trainer."""
    defaults = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "log_every_n_steps": 1,
    }
    return Trainer(default_root_dir=folder, callbacks=list(callbacks), **(defaults | kwargs))


def values(callback: ImageMetricsCallback, name: str = "fd") -> list[float]:
    return [record["values"][name] for record in callback.history]


class PoolRank(ClusterEnvironment):
    """Makes a rank of `worlds` a rank of a Trainer; the pool has already joined the process group."""

    creates_processes_externally = True
    main_address = "127.0.0.1"
    main_port = 0

    def __init__(self, rank: int, size: int) -> None:
        self.rank, self.size = rank, size

    @staticmethod
    def detect() -> bool:
        return False

    def world_size(self) -> int:
        return self.size

    def set_world_size(self, size: int) -> None: ...

    def global_rank(self) -> int:
        return self.rank

    def set_global_rank(self, rank: int) -> None: ...

    def local_rank(self) -> int:
        return 0

    def node_rank(self) -> int:
        return self.rank

    def validate_settings(self, num_devices: int, num_nodes: int) -> None: ...


def rank_trainer(rank: int, size: int, folder: str, *callbacks: Any, **kwargs: Any) -> Trainer:
    """A trainer of one rank inside the pool, whose processes do not see the environment of the test."""
    os.environ["IMGMETRICS_CACHE"] = f"{folder}/cache"
    for message in (".*LeafSpec.*", "The '.*dataloader' does not have many workers", "The number of training batches"):
        warnings.filterwarnings("ignore", message)
    if size > 1:
        kwargs |= {"strategy": "ddp", "devices": 1, "num_nodes": size, "plugins": [PoolRank(rank, size)]}
    return trainer(folder, *callbacks, **kwargs)


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0, "tensors": 0})
    return accumulator.Reload()
