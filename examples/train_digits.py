"""Train a class-conditional flow-matching model on real handwritten digits, and measure its samples while it trains.

    python examples/train_digits.py [--devices 2] [--extractor inception] [--wandb]

A small UNet learns 1348 digits of scikit-learn (8x8 pixels) on the CPU, in about a minute. At growing intervals
`ImageMetricsCallback` samples 500 captioned digits from the moving average of the weights, compares them with 449
held-out digits, and logs `val/fd_digits_clip`, `val/clip_score`, `val/lpips_diversity` and, as for a preference model,
`val/pickscore_per_prompt` with the best and worst of the samples of a caption. The folder of the run holds
`metrics.csv`, events for TensorBoard, the checkpoint with the best distance, a picture of the samples at each
evaluation, and `curves.png`. The table at the end sets all evaluations beside real digits.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import pairwise
from math import tau
from pathlib import Path

import lightning as L
import matplotlib as mpl
import torch
import torch.nn.functional as F
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from matplotlib import pyplot as plt
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_imgmetrics import (
    CLIPScore,
    Every,
    ImageMetricsCallback,
    LPIPSDiversity,
    MetricSuite,
    PerPrompt,
    PickScore,
    noise,
)

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
CAPTIONS = [f"a handwritten {word}" for word in WORDS]
DISTANCES = {"digits-clip": "fd_digits_clip", "inception": "fid"}  # network: key of its Fréchet distance
BATCH, HEUN_STEPS = 64, 8


def digits() -> tuple[TensorDataset, TensorDataset]:
    """Training and held-out digits, each (image uint8 (1, 8, 8), label); image i is held out when i % 4 == 3."""
    data = load_digits()
    images = torch.from_numpy(data.images * 255 / 16).round().to(torch.uint8)[:, None]
    labels, held_out = torch.from_numpy(data.target), torch.arange(len(images)) % 4 == 3
    return TensorDataset(images[~held_out], labels[~held_out]), TensorDataset(images[held_out], labels[held_out])


class Block(nn.Module):
    """Residual convolutions (n, i, h, w) -> (n, o, h, w), scaled and shifted by a condition (n, d)."""

    def __init__(self, i: int, o: int, d: int):
        super().__init__()
        self.first = nn.Sequential(nn.GroupNorm(8, i), nn.SiLU(), nn.Conv2d(i, o, 3, padding=1), nn.GroupNorm(8, o))
        self.condition = nn.Linear(d, 2 * o)
        self.second = nn.Sequential(nn.SiLU(), nn.Conv2d(o, o, 3, padding=1))
        self.skip = nn.Conv2d(i, o, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        scale, shift = self.condition(condition)[:, :, None, None].chunk(2, 1)
        return self.skip(x) + self.second(self.first(x) * (1 + scale) + shift)


class UNet(nn.Module):
    """Velocity (n, 1, 8, 8) at images (n, 1, 8, 8), times (n,) in [0, 1] and labels (n,)."""

    frequencies: Tensor

    def __init__(self, width: int = 32, d: int = 64):
        super().__init__()
        self.register_buffer("frequencies", tau * 2 ** torch.linspace(-2, 4, 16))
        self.time = nn.Sequential(nn.Linear(32, d), nn.SiLU(), nn.Linear(d, d))
        self.label = nn.Embedding(10, d)
        self.enter = nn.Conv2d(1, width, 3, padding=1)
        self.fine = Block(width, width, d)
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.coarse = nn.ModuleList(Block(2 * width, 2 * width, d) for _ in range(2))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.joined = Block(2 * width, width, d)
        self.leave = nn.Sequential(nn.SiLU(), nn.Conv2d(width, 1, 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        angles = t[:, None] * self.frequencies
        condition = F.silu(self.time(torch.cat([angles.sin(), angles.cos()], 1)) + self.label(labels))
        fine = self.fine(self.enter(x), condition)
        coarse = self.down(fine)
        for block in self.coarse:
            coarse = block(coarse, condition)
        return self.leave(self.joined(torch.cat([fine, self.up(coarse)], 1), condition))


class DigitFlow(L.LightningModule):
    """Flow matching: the network learns the velocity that carries noise (t = 0) straight to digits (t = 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = UNet()

    def on_train_start(self) -> None:
        torch.manual_seed(torch.initial_seed() + self.global_rank)  # every rank draws its own noise

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        images, labels = batch
        digit = images / 127.5 - 1
        start = torch.randn_like(digit)
        t = torch.rand(len(digit), device=self.device)
        velocity = self.net(torch.lerp(start, digit, t[:, None, None, None]), t, labels)
        loss = F.mse_loss(velocity, digit - start)
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> dict[str, object]:
        optimizer = torch.optim.AdamW(self.parameters(), lr=3e-3)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.trainer.max_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def sample(self, prompts: list[str], generators: list[torch.Generator]) -> Tensor:
        """Images (n, 1, 8, 8) in [0, 1] for captions, by Heun's method with steps that shrink towards t = 1."""
        labels = torch.tensor([CAPTIONS.index(prompt) for prompt in prompts], device=self.device)
        x = noise(generators, (1, 8, 8), self.device)
        for t, later in pairwise(1 - torch.linspace(1, 0, HEUN_STEPS + 1, device=self.device) ** 2):
            here = self.net(x, t.expand(len(x)), labels)
            there = self.net(x + (later - t) * here, later.expand(len(x)), labels)
            x = x + (later - t) * (here + there) / 2
        return (x / 2 + 0.5).clamp(0, 1)


def make_suite(distance: str) -> MetricSuite:
    """Is it digits, does each fit its caption, do those of one caption differ, does the seed decide or the caption?

    PickScore is exp(logit_scale) cos in a CLIP; `digits-clip` takes the place of a model of people's preferences.
    """
    preference = PerPrompt(PickScore("digits-clip"))
    return MetricSuite([distance, CLIPScore("digits-clip"), LPIPSDiversity("digits-clip"), preference])


def measure_real(train: TensorDataset, held_out: TensorDataset, distance: str) -> dict[str, float]:
    """The values of held-out digits; as they are the reference, the distance is that of training digits from them."""
    suite = make_suite(distance)
    suite.update_reference(held_out.tensors[0])

    def values(images: Tensor, labels: Tensor) -> dict[str, float]:
        suite.reset_generated()
        suite.update(images, prompts=[CAPTIONS[label] for label in labels])
        return {name: result.value for name, result in suite.results().items()}

    chosen = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:500]
    return values(*held_out.tensors) | {distance: values(*train[chosen])[distance]}


def plot(history: Sequence[dict], suite: MetricSuite, path: Path) -> None:
    """A curve for each metric over the optimizer steps."""
    mpl.use("Agg")
    figure, axes = plt.subplots(1, len(suite.named()), figsize=(12, 3), layout="constrained")
    for (name, metric), ax in zip(suite.named().items(), axes, strict=True):
        ax.plot([record["step"] for record in history], [record["values"][name] for record in history], marker="o")
        ax.set(title=f"{name}\n{'higher' if metric.higher_is_better else 'lower'} is better", xlabel="step")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--devices", type=int, default=1, help="processes; two or more train with DDP (default: 1)")
    parser.add_argument("--extractor", choices=DISTANCES, default="digits-clip", help="network of the distance")
    parser.add_argument("--wandb", action="store_true", help="also log to an offline W&B run")
    parser.add_argument("--steps", type=int, default=800, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--samples", type=int, default=500, help="images of an evaluation (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/digits"), help="folder of runs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Train, measure, show the table; returns its rows."""
    args = parse(argv)
    torch.set_num_threads(1)  # a second thread gains little for so small a network, and costs much on a busy machine
    L.seed_everything(args.seed)
    distance = DISTANCES[args.extractor]
    train, held_out = digits()
    real = measure_real(train, held_out, distance)  # before the ranks of DDP meet: each measures for itself

    csv = CSVLogger(args.out, name="")  # every run has a folder of its own: version_0, version_1, ...
    loggers: list[Logger] = [csv, TensorBoardLogger(args.out, name="", version=csv.version)]
    if args.wandb:
        loggers.append(WandbLogger(project="digits", save_dir=args.out, offline=True))
    monitor = ImageMetricsCallback(
        make_suite(distance),
        reference=held_out,
        prompts=CAPTIONS,  # sample i is to show digit i mod 10
        num_samples=args.samples,
        batch_size=250,
        every=Every(steps=[round(args.steps * (k / 8) ** 2) for k in range(9)]),
        media=40,
        folder=f"{csv.log_dir}/samples",
    )
    # The distance is checked after every step, so that the weights that are kept are those that were measured.
    best = ModelCheckpoint(
        f"{csv.log_dir}/checkpoints", "best-{step}", monitor=f"val/{distance}", mode="min", every_n_train_steps=1
    )
    trainer = L.Trainer(
        accelerator="cpu",
        devices=args.devices,
        strategy="ddp" if args.devices > 1 else "auto",
        max_steps=args.steps,
        logger=loggers,
        callbacks=[EMAWeightAveraging(decay=0.99), monitor, best],
        log_every_n_steps=10,
        enable_model_summary=False,
    )
    trainer.fit(DigitFlow(), DataLoader(train, BATCH // args.devices, shuffle=True, drop_last=True))

    rows = {f"step {record['step']}": record["values"] for record in monitor.history} | {"real digits": real}
    if trainer.is_global_zero:
        plot(monitor.history, monitor.suite, Path(csv.log_dir) / "curves.png")
        table = Table("", *real, title=csv.log_dir, caption=f"best: {Path(best.best_model_path).name}")
        for name, values in rows.items():
            table.add_row(name, *(f"{values[key]:.3f}" for key in real))
        Console().print(table)
    return rows


if __name__ == "__main__":
    main()
