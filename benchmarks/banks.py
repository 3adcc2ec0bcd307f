"""Metrics that keep features: time and memory of KID, precision/recall and MiFID on synthetic features."""

from __future__ import annotations

import io
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from functools import partial
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from common import D, Row, Rows, Sizes, note, peak_memory, pool_features, row, timed
from torch import Tensor

from lightning_imgmetrics import (
    DensityCoverage,
    KernelInceptionDistance,
    MemorizationInformedFrechetInceptionDistance,
    MetricSuite,
    PrecisionRecall,
)
from lightning_imgmetrics._compat.torchmetrics import forget_value


def kid(sizes: Sizes) -> Iterator[Row]:
    """KID of the same features, 100 subsets."""
    from torchmetrics.image.kid import KernelInceptionDistance as Theirs

    n, rows = sizes.features, Rows()
    ours = KernelInceptionDistance(rows, subset_size=sizes.subset)
    theirs = Theirs(rows, subset_size=sizes.subset)
    for real in (True, False):
        for ids, block in _numbered(n, real):
            ours.update_features({"features": block}, real=real, ids=ids)
            theirs.update(block, real=real)
    batches = {name: content.map(_same) for name, content in ours.contents.items()}
    values: dict[str, Any] = {}

    def compute_ours() -> None:  # from the batches as they came: the first compute sorts them into one bank
        ours.contents = {name: content.map(_same) for name, content in batches.items()}
        forget_value(ours)
        values["ours"] = ours.compute()

    def compute_theirs() -> None:
        forget_value(theirs)
        values["theirs"] = theirs.compute()

    ours_s, theirs_s = timed(compute_ours, compute_theirs, repeats=2)
    what = f"KID of 2 x {n} features, 100 subsets of {sizes.subset}, vs torchmetrics"
    yield row(what, ours_s, theirs_s, "1x")
    texts = [f"{float(mean):.6f} ± {float(std):.6f}" for mean, std in values.values()]
    yield note("- mean and standard deviation over the subsets, which are not the same", *texts)


def _same(part: str, x: Tensor) -> Tensor:
    return x


def _numbered(n: int, real: bool) -> Iterator[tuple[range, Tensor]]:
    """(ids, features) of one side in batches."""
    start = 0
    for block in pool_features(n, 1 + real, shift=0.0 if real else 0.02):
        yield range(start, start + len(block)), block
        start += len(block)


def manifold(sizes: Sizes) -> Iterator[Row]:
    """Precision, recall, density and coverage of the same features."""
    from torch_fidelity.metric_prc import calculate_precision_recall_full

    n = sizes.points
    real, fake = (torch.cat([block for _, block in _numbered(n, side)]) for side in (True, False))

    def ours(k: int, *, strict: bool, all_four: bool) -> dict[str, float]:
        rows, options = Rows(), {"nearest_k": k, "strict": strict}
        metrics: dict[str, Any] = {"precision": PrecisionRecall("precision", rows, **options)}
        if all_four:
            metrics["density"] = DensityCoverage("density", rows, **options)
        measured = MetricSuite(metrics)
        for features, is_real in ((real, True), (fake, False)):
            for m in metrics.values():
                m.update_features({"features": features}, real=is_real, ids=range(n))
        results = measured.results()
        return {name: r.value for name, r in results.items()} | {
            k: v for r in results.values() for k, v in r.details.items()
        }

    def fidelity() -> dict[str, float]:
        precision, recall = calculate_precision_recall_full(fake, real, neighborhood=3)
        return {"precision": precision, "recall": recall}

    def prdc() -> dict[str, float]:
        from prdc import compute_prdc

        with redirect_stdout(io.StringIO()):
            return compute_prdc(real.numpy(), fake.numpy(), nearest_k=5)

    what = f"of 2 x {n} features"
    yield from _pair(
        f"precision, recall {what}, k = 3, vs torch-fidelity", partial(ours, 3, strict=False, all_four=False), fidelity
    )
    if find_spec("prdc") is None:
        yield note("precision, recall, density, coverage vs prdc", "", "not installed")
        return
    yield from _pair(
        f"precision, recall, density, coverage {what}, k = 5, vs prdc",
        partial(ours, 5, strict=True, all_four=True),
        prdc,
    )


def _pair(what: str, ours: Callable[[], dict[str, float]], theirs: Callable[[], dict[str, float]]) -> Iterator[Row]:
    values: list[dict[str, float]] = [{}, {}]
    runs = [lambda i=i, f=f: values[i].update(f()) for i, f in enumerate((ours, theirs))]
    ours_s, theirs_s = timed(*runs, repeats=2, warm_up=False)
    yield row(what, ours_s, theirs_s, "1x")
    difference = max(abs(values[0][name] - value) for name, value in values[1].items())
    texts = ", ".join(f"{name} {values[0][name]:.4f}" for name in values[1])
    yield note(f"- largest difference of a value ({texts})", f"{difference:.1e}")


class Use(NamedTuple):
    """What a metric needs: GB before the first feature and at the peak, seconds of `compute`."""

    start: float
    peak: float
    seconds: float


def memory(sizes: Sizes) -> Iterator[Row]:
    """Peak memory and seconds of compute of metrics that keep features, each in a process of its own."""
    n = sizes.features
    # The others hold all pairs of samples, here with 8 bytes each at the least: two float32, one float64.
    pairs = f"at least {8e-9 * n * n:.1f} GB of"
    for name, theirs in (
        ("KID", _apart("KID", "torchmetrics", sizes)),
        ("precision/recall", f"{pairs} distances in torch-fidelity, not run"),
        ("MiFID", f"{pairs} cosines in torchmetrics, not run"),
    ):
        ours = _apart(name, "ours", sizes)
        what = f"{name} of 2 x {n} features, {8e-9 * n * D:.2f} GB: peak memory of the process"
        if isinstance(ours, str) or isinstance(theirs, str):
            yield note(what, ours if isinstance(ours, str) else f"{ours.peak:.2f} GB", str(theirs), "3 GB")
        else:
            both = f"{ours.peak:.2f} GB", f"{theirs.peak:.2f} GB"
            yield f"{what}, vs torchmetrics", *both, f"{theirs.peak / ours.peak:.1f}x", "3 GB"
        if isinstance(ours, Use):
            yield note("- of it before the first feature", f"{ours.start:.2f} GB")
            taken = f"{theirs.seconds:.1f} s" if isinstance(theirs, Use) else ""
            yield note("- seconds of compute", f"{ours.seconds:.1f} s", taken)


def _apart(name: str, whose: str, sizes: Sizes) -> Use | str:
    """`_use` in a fresh process, or that it was killed."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_use, name, whose, sizes, torch.get_num_threads()).result()
        except BrokenProcessPool:
            return "the process was killed"


def _use(name: str, whose: str, sizes: Sizes, threads: int) -> Use:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    rows, subset = Rows(), {"subset_size": sizes.subset}
    metric: Any
    if whose == "torchmetrics":
        from torchmetrics.image.kid import KernelInceptionDistance as Theirs

        metric = Theirs(rows, **subset)
    elif name == "KID":
        metric = KernelInceptionDistance(rows, **subset)
    else:
        metric = (
            PrecisionRecall("f_score", rows)
            if name == "precision/recall"
            else MemorizationInformedFrechetInceptionDistance(rows)
        )
    libraries = peak_memory()
    for real in (True, False):
        for ids, block in _numbered(sizes.features, real):
            if whose == "torchmetrics":
                metric.update(block, real=real)
            else:
                metric.update_features({"features": block}, real=real, ids=ids)
    start = time.perf_counter()
    metric.compute()
    seconds = time.perf_counter() - start
    return Use(libraries * 2**20 / 1e9, peak_memory() * 2**20 / 1e9, seconds)
