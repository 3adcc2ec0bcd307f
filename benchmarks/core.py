"""Speed of the core against the packages it replaces, as ratios within one run: same weights, same images, one machine.

    python benchmarks/core.py                  # all of it, about 5 minutes on 2 cores
    python benchmarks/core.py features sync    # some of it

Prints a Markdown table: what was measured, ours, theirs, the ratio, and the ratio aimed at.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from common import D, Row, Rows, peak_memory, random_inception, row, show, timed
from torch import Tensor

from lightning_imgmetrics import (
    FrechetDistance,
    FrechetInceptionDistance,
    ImageMetricsCallback,
    LearnedPerceptualImagePatchSimilarity,
    LPIPSDiversity,
)
from lightning_imgmetrics.functional import frechet


def features() -> Iterator[Row]:
    """`update` of FID with 2048 features: resize, network, accumulation."""
    from torchmetrics.image.fid import FrechetInceptionDistance as Theirs

    with tempfile.TemporaryDirectory() as folder:
        weights = random_inception(folder)
        images = torch.randint(256, (16, 3, 256, 256), dtype=torch.uint8)
        ours = FrechetInceptionDistance(feature_extractor_weights_path=weights)
        theirs = Theirs(feature_extractor_weights_path=weights)
        ours_s, theirs_s = timed(lambda: ours.update(images, real=True), lambda: theirs.update(images, real=True))
        yield row("Inception features and state, 16 images of 256 px, vs torchmetrics", ours_s, theirs_s, "2.5x")
        expected = theirs.inception(images)
        error = (ours.extract([images])["2048"] - expected).abs().max() / expected.abs().max()
        yield "- largest relative difference of a feature", f"{error:.1e}", "", "", "1e-4"


def distance() -> Iterator[Row]:
    """The Fréchet distance itself, d = 2048."""
    from scipy.linalg import sqrtm
    from torchmetrics.image.fid import _compute_fid

    g = torch.Generator().manual_seed(0)
    spectrum = torch.logspace(0, -2, D, dtype=torch.float64)
    x, y = (torch.randn(10_000, D, generator=g, dtype=torch.float64) * spectrum + shift for shift in (0, 0.02))
    mean1, cov1, mean2, cov2 = x.mean(0), x.mT.cov(), y.mean(0), y.mT.cov()
    factor1 = frechet.psd_factor(cov1)

    def by_sqrtm() -> float:
        root = sqrtm((cov1 @ cov2).numpy()).real.trace()
        return float((mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * root)

    def cold() -> Tensor:
        return frechet.frechet_distance(mean1, cov1, mean2, cov2)

    def cached() -> Tensor:
        return frechet.frechet_to_factor(mean1, factor1, mean2, cov2)

    def eigvals() -> Tensor:
        return _compute_fid(mean1, cov1, mean2, cov2)

    cold_s, cached_s, eigvals_s, sqrtm_s = timed(cold, cached, eigvals, by_sqrtm)
    yield row("Fréchet distance, n = 10 000, vs torchmetrics' eigvals", cold_s, eigvals_s, "3x")
    yield row("- vs scipy's sqrtm", cold_s, sqrtm_s, "10x")
    yield row("- reference factor kept, vs torchmetrics", cached_s, eigvals_s, "5x")
    worst = max(abs(float(cold()) / by_sqrtm() - 1), abs(float(cached()) / by_sqrtm() - 1))
    yield "- largest relative difference to sqrtm", f"{worst:.1e}", "", "", "1e-8"

    few_x, few_y = x[:500], y[:500]
    means_covs = [f(side) for side in (few_x, few_y) for f in (lambda s: s.mean(0), lambda s: s.mT.cov())]
    small_s, few_s = timed(
        lambda: frechet.frechet_of_factors(*frechet.row_factor(few_x), *frechet.row_factor(few_y), rank=499),
        lambda: _compute_fid(*means_covs),
    )
    yield row("- n = 500 < d through the Gram matrix, vs torchmetrics", small_s, few_s, "50x")


def _sync_rank(rank: int, size: int, store: str, ours: bool, out: str) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance as Theirs

    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{store}", rank=rank, world_size=size)
    metric = FrechetDistance(Rows()) if ours else Theirs(feature=Rows())
    for real in (True, False):
        metric.update(torch.randint(256, (32, 3, 26, 27), dtype=torch.uint8), real=real)
    dist.barrier()
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from the memory in use now
    before = peak_memory()
    seconds = []
    for _ in range(3):
        dist.barrier()
        start = time.perf_counter()
        metric.sync(distributed_available=lambda: True)
        seconds.append(time.perf_counter() - start)
        metric.unsync()
    if rank == 0:
        Path(out).write_text(f"{statistics.median(seconds)} {peak_memory() - before}")
    dist.destroy_process_group()


def sync() -> Iterator[Row]:
    """`sync` of the FID state, real and generated, d = 2048, over gloo ranks on this machine."""
    for size, aim in ((2, ""), (4, "4x")):
        figures = []
        for ours in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                mp.spawn(_sync_rank, (size, f"{folder}/store", ours, f"{folder}/out"), nprocs=size)
                figures.append([float(x) for x in Path(folder, "out").read_text().split()])
        (ours_s, ours_mib), (theirs_s, theirs_mib) = figures
        yield row(f"sync of the FID state, {size} ranks, vs torchmetrics", ours_s, theirs_s, aim)
        memory = f"{theirs_mib / max(ours_mib, 1):.1f}x"
        yield f"- memory beyond the state, {size} ranks", f"{ours_mib:.0f} MiB", f"{theirs_mib:.0f} MiB", memory, "O(1)"


def perceptual() -> Iterator[Row]:
    """LPIPS of pairs, alex trunk with random weights, vs the `lpips` package."""
    import lpips
    import torchvision

    with tempfile.TemporaryDirectory() as folder:
        trunk = torchvision.models.alexnet(weights=None)
        torch.save(trunk.state_dict(), f"{folder}/alexnet.pth")
        theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        for part in (theirs.net.slice1, theirs.net.slice2, theirs.net.slice3, theirs.net.slice4, theirs.net.slice5):
            for name, layer in part.named_children():
                layer.load_state_dict(trunk.features[int(name)].state_dict())
        ours = LearnedPerceptualImagePatchSimilarity("alex", normalize=True, weights=f"{folder}/alexnet.pth")
        a, b = torch.rand(2, 16, 3, 256, 256)

        @torch.no_grad()
        def reference() -> Tensor:
            return theirs(a, b, normalize=True)

        ours_s, theirs_s = timed(lambda: ours.update(a, b), reference)
        yield row("LPIPS (alex), 16 pairs of 256 px, vs lpips", ours_s, theirs_s, "1.5x")


def callback() -> Iterator[Row]:
    """What the callback adds to sampling and networks: checks, sync, panel, writers."""
    import lightning.pytorch as pl

    class Still(pl.LightningModule):
        def training_step(self, batch: Tensor, batch_idx: int) -> None: ...

        def configure_optimizers(self) -> None: ...

        def sample(self, ids: list[int]) -> Tensor:
            return images[[i % len(images) for i in ids]]

    images = torch.randint(256, (512, 3, 64, 64), dtype=torch.uint8)
    metrics = {"fd": FrechetDistance(), "diversity": LPIPSDiversity("digits-clip")}
    monitor = ImageMetricsCallback(
        metrics, reference=images[:64], prompts=["a", "b"], num_samples=8192, batch_size=64, cache=False, progress=False
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            max_steps=1,
            logger=pl.loggers.TensorBoardLogger(folder),
            callbacks=[monitor],
            accelerator="cpu",
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
        )
        module = Still()
        trainer.fit(module, torch.utils.data.DataLoader(images[:8]))
        start = time.perf_counter()
        monitor.evaluate(trainer, module)
        total = time.perf_counter() - start
    work = monitor.history[-1]["seconds"]["sampling"] + monitor.history[-1]["seconds"]["networks"]
    yield (
        "callback, 8192 images of 64 px: a whole evaluation; sampling and networks",
        f"{total:.2f} s",
        f"{work:.2f} s",
        "",
        "",
    )
    yield "- beyond sampling and networks", f"{100 * (total - work) / total:.1f} %", "", "", "< 5 %"


SECTIONS = {"features": features, "distance": distance, "sync": sync, "perceptual": perceptual, "callback": callback}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", choices=[*SECTIONS, []], help="default: all")
    chosen = parser.parse_args().sections or list(SECTIONS)
    show(cells for name in chosen for cells in SECTIONS[name]())


if __name__ == "__main__":
    main()
