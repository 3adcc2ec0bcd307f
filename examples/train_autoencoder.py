"""Train an autoencoder on real handwritten digits, and measure its reconstructions while it trains.

    python examples/train_autoencoder.py

The encoder keeps 8 numbers of a digit (8x8 pixels); half a minute on a CPU. At each evaluation `ImageMetricsCallback`
reconstructs 449 held-out digits through `PairedSampler` and logs PSNR, SSIM, LPIPS and the Fréchet distance between the
reconstructions and the digits themselves (rFID, here in the features of `digits-clip`). The folder of the run holds
`metrics.csv`, events for TensorBoard, pictures, and `curves.png`. The table at the end sets the evaluations beside
digits that were only shifted by a pixel: paired metrics rate them below blurs, while rFID rates them as digits.
"""

from __future__ import annotations

import argparse
import runpy
from collections.abc import Sequence
from pathlib import Path

import lightning as L
import torch
import torch.nn.functional as F
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_imgmetrics import (
    Every,
    ImageMetricsCallback,
    LearnedPerceptualImagePatchSimilarity,
    MetricSuite,
    PairedSampler,
    PeakSignalNoiseRatio,
    ReconstructionFrechetDistance,
    StructuralSimilarityIndexMeasure,
)

_DIGITS = runpy.run_path(str(Path(__file__).parent / "train_digits.py"))
digits, plot = _DIGITS["digits"], _DIGITS["plot"]


class Autoencoder(L.LightningModule):
    """Images (n, 1, 8, 8) in [0, 1] -> 8 numbers -> images."""

    def __init__(self, code: int = 8, width: int = 32):
        super().__init__()
        self.encode = nn.Sequential(
            nn.Conv2d(1, width, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.SiLU(),
            nn.Flatten(),
            nn.Linear(8 * width, code),
        )
        self.decode = nn.Sequential(
            nn.Linear(code, 8 * width),
            nn.SiLU(),
            nn.Unflatten(1, (2 * width, 2, 2)),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(width, 1, 4, 2, 1),
            nn.Sigmoid(),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.decode(self.encode(images))

    def training_step(self, batch: Sequence[Tensor]) -> Tensor:
        loss = F.mse_loss(self(batch[0]), batch[0])
        self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=3e-3)


def make_suite() -> MetricSuite:
    """The preset "reconstruction", with `digits-clip` instead of networks that must be downloaded."""
    return MetricSuite(
        {
            "psnr": PeakSignalNoiseRatio(1.0, dim=(1, 2, 3)),
            "ssim": StructuralSimilarityIndexMeasure(data_range=1.0),
            "lpips": LearnedPerceptualImagePatchSimilarity("digits-clip", normalize=True),
            "rfd": ReconstructionFrechetDistance("digits-clip"),
        }
    )


def main(argv: Sequence[str] | None = None) -> dict[str, dict[str, float]]:
    """Train, measure, plot, show the table; returns its rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=600, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/autoencoder"), help="folder (default: %(default)s)")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)  # a second thread gains nothing for so small a network
    L.seed_everything(0)
    train, held_out = (TensorDataset(side.tensors[0].float() / 255) for side in digits())
    images = held_out.tensors[0]

    csv = CSVLogger(args.out, name="")
    monitor = ImageMetricsCallback(
        make_suite(),
        PairedSampler(TensorDataset(images, images)),
        num_samples=len(images),
        batch_size=150,
        every=Every(steps=[round(args.steps * (k / 6) ** 2) for k in range(7)]),
        folder=f"{csv.log_dir}/samples",
    )
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=args.steps,
        logger=[csv, TensorBoardLogger(args.out, name="", version=csv.version)],
        callbacks=[monitor],
        log_every_n_steps=10,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    trainer.fit(Autoencoder(), DataLoader(train, 64, shuffle=True, drop_last=True))
    plot(monitor.history, monitor.suite, Path(csv.log_dir) / "curves.png")

    shifted = make_suite()
    shifted.update(F.pad(images, (1, 0, 0, 0), mode="replicate")[..., :-1], target=images)
    rows = {f"step {record['step']}": record["values"] for record in monitor.history}
    rows["shifted by a pixel"] = {name: result.value for name, result in shifted.results().items()}
    table = Table("", *rows["step 0"], title=csv.log_dir, caption=f"curves: {csv.log_dir}/curves.png")
    for name, values in rows.items():
        table.add_row(name, *(f"{value:.3f}" for value in values.values()))
    Console().print(table)
    return rows


if __name__ == "__main__":
    main()
