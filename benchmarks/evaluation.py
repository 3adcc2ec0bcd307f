"""Evaluation against the tools it replaces, as ratios within one run: same weights, same images, one machine.

    python benchmarks/evaluation.py                        # all of it, about 20 minutes on 2 cores
    python benchmarks/evaluation.py tools kid --threads 2  # some of it
    python benchmarks/evaluation.py --small                # does it run? a few minutes, the numbers mean nothing

Prints a Markdown table: what was measured, ours, theirs, the ratio, and the ratio aimed at. The networks have random
weights. A tool that is not installed is skipped; `pip install -e '.[bench]'` installs them all.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from banks import kid, manifold, memory
from common import SMALL, Row, Sizes, note, random_inception, row, show, smooth_images, timed
from torch import Tensor
from torch.utils.data import Dataset

from lightning_imgmetrics import (
    FrechetInceptionDistance,
    InceptionScore,
    KernelInceptionDistance,
    MetricSuite,
    PrecisionRecall,
)


def tools(sizes: Sizes) -> Iterator[Row]:
    """FID of two folders of PNG files, from nothing loaded to the value."""
    from tools import OURS, TOOLS, Job, Run, ours, run

    from lightning_imgmetrics.cli.ranks import default_workers

    n = sizes.images
    with tempfile.TemporaryDirectory() as folder:
        for name, seed, contrast in (("real", 0, 1.0), ("generated", 1, 1.5)):
            Path(folder, name).mkdir()
            _write(Path(folder, name), smooth_images(n, sizes.pixels, seed, contrast=contrast))
        paths = f"{folder}/real", f"{folder}/generated", random_inception(folder)
        job = Job(*paths, sizes.batch, workers=max(1, default_workers()))
        yield note(f"FID of 2 x {n} PNG files of {sizes.pixels} px, {job.workers} worker(s)", "", "")
        for name, tool in TOOLS.items():
            if find_spec(tool.module) is None:
                yield note(f"- vs {name}", "", "not installed")
                continue
            mine, theirs = _best_of_turns(
                partial(run, partial(ours, protocol=tool.protocol), OURS, job),
                partial(run, tool.fid, tool.distance, job),
            )

            def speed(x: Run) -> float:
                return 2 * n / (x.seconds - x.distance)

            yield row(f"- end to end, vs {name}{tool.remark}", mine.seconds, theirs.seconds)
            ratio = f"{speed(mine) / speed(theirs):.1f}x"
            yield f"- without the distance, vs {name}", f"{speed(mine):.1f}/s", f"{speed(theirs):.1f}/s", ratio, "1.5x"
            difference = abs(mine.value / theirs.value - 1)
            yield note(
                f"- relative difference of the values under protocol {tool.protocol!r}", f"{difference:.1e}", aim="1e-4"
            )


def _write(folder: Path, images: Tensor) -> None:
    from torchvision.transforms.functional import to_pil_image

    for i, image in enumerate(images):
        to_pil_image(image).save(folder / f"{i:05d}.png")


def _best_of_turns(*functions: Callable[[], Any], turns: int = 2) -> list[Any]:
    """The fastest run of each: the first one also pays for imports."""
    runs = [[function() for function in functions] for _ in range(turns)]
    return [min(own, key=lambda x: x.seconds) for own in zip(*runs, strict=True)]


class Images(Dataset):
    """Images in memory, as torch-fidelity takes them."""

    def __init__(self, images: Tensor):
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def suite(sizes: Sizes) -> Iterator[Row]:
    """FID, KID, inception score, precision and recall of one stream of images."""
    import torchmetrics.image as tm
    from torch_fidelity import calculate_metrics, feature_extractor_inceptionv3 as fidelity

    n, subset = sizes.images, sizes.images // 2
    sides = {
        is_real: smooth_images(n, sizes.pixels, seed=2 + is_real, contrast=2 - is_real) for is_real in (True, False)
    }
    with tempfile.TemporaryDirectory() as folder:
        weights = random_inception(folder)
        own: dict[str, Any] = {"feature_extractor_weights_path": weights}
        fid = FrechetInceptionDistance(**own)
        ours = MetricSuite(
            {
                "fid": fid,
                "kid": KernelInceptionDistance(subset_size=subset, **own),
                "inception_score": InceptionScore(**own),
                "precision": PrecisionRecall("precision", fid.extractor),
            }
        )
        with mock.patch.object(fidelity, "load_state_dict_from_url", return_value=torch.load(weights)):
            score = tm.InceptionScore()
            theirs = [tm.FrechetInceptionDistance(), tm.KernelInceptionDistance(subset_size=subset)]

        def feed_ours() -> None:
            ours.reset()
            for m in ours.named().values():
                m.memo.clear()  # else the second turn would find the reference's factor and radii
            for is_real, images in sides.items():
                for ids in torch.arange(n).split(sizes.batch):
                    ours.update(images[ids], real=is_real, ids=ids)

        def feed_theirs() -> None:
            for metric in (*theirs, score):
                metric.reset()
            for metric in theirs:
                for is_real, images in sides.items():
                    for batch in images.split(sizes.batch):
                        metric.update(batch, real=is_real)
            for batch in sides[False].split(sizes.batch):
                score.update(batch)

        def compute_theirs() -> None:
            for metric in (*theirs, score):
                metric.compute()

        def precision_recall() -> dict[str, float]:
            return calculate_metrics(
                input1=Images(sides[False]),
                input2=Images(sides[True]),
                prc=True,
                feature_extractor="inception-v3-compat",
                feature_layer_prc="2048",
                cuda=False,
                batch_size=sizes.batch,
                cache=False,
                verbose=False,
                **own,
            )

        steps = (feed_ours, ours.results, feed_theirs, compute_theirs, precision_recall)
        feed, compute, feed_tm, compute_tm, pass_tf = timed(*steps, repeats=2, warm_up=False)
        what = f"FID + KID + IS + precision/recall, 2 x {n} images of {sizes.pixels} px"
        yield row(f"{what}, vs torchmetrics and torch-fidelity", feed + compute, feed_tm + compute_tm + pass_tf, "6x")
        yield row("- the images alone (theirs: with all of torch-fidelity's precision/recall)", feed, feed_tm + pass_tf)
        yield row("- compute alone, vs torchmetrics", compute, compute_tm)


def extraction(sizes: Sizes) -> Iterator[Row]:
    """Inception features alone."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    from lightning_imgmetrics.models.base.extractor import measured_deviation
    from lightning_imgmetrics.models.encoders.inception import InceptionExtractor

    images, cpu = smooth_images(sizes.batch, sizes.pixels, seed=0), torch.device("cpu")
    with tempfile.TemporaryDirectory() as folder:
        weights = random_inception(folder)
        theirs = NoTrainInceptionV3("inception-v3-compat", ["2048"], weights)
        plain = InceptionExtractor(weights=weights)
        expected = theirs(images)
        error = (plain([images], ("2048",), cpu)["2048"] - expected).norm(dim=1) / expected.norm(dim=1)
        for changes, aim in (
            ({}, "2.5x"),
            ({"compiled": True}, "2.5x"),
            ({"dtype": "bfloat16"}, ""),
            ({"dtype": "bfloat16", "compiled": True}, ""),
        ):
            network = replace(plain, **changes)
            how = network.dtype + (", compiled" if network.compiled else "")
            try:
                deviation = measured_deviation(network, [images], ("2048",), cpu) if changes else float(error.max())
            except Exception as problem:  # whatever a missing or broken C++ compiler makes of it
                yield note(f"Inception features, {how}", f"skipped: {_first_line(problem)}", aim=aim)
                continue
            ours_s, theirs_s = timed(partial(network, [images], ("2048",), cpu), partial(theirs, images))
            yield row(f"Inception features, {len(images)} images, {how}, vs torchmetrics", ours_s, theirs_s, aim)
            twin = "ours in float32, eager" if changes else "torchmetrics"
            yield note(f"- largest deviation from {twin}", f"{deviation:.1e}", aim="" if "dtype" in changes else "1e-4")


def _first_line(problem: BaseException) -> str:
    text = f"{type(problem).__name__}: {problem}".splitlines()[0]
    return text.replace("|", "/")[:120]


SECTIONS = {
    "tools": tools,
    "suite": suite,
    "extraction": extraction,
    "kid": kid,
    "manifold": manifold,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sections", nargs="*", metavar="section", help=f"of {', '.join(SECTIONS)}; default: all")
    parser.add_argument("--threads", type=int, help="of every library here; default: as each of them chooses")
    parser.add_argument("--small", action="store_true", help="a smoke run")
    options = parser.parse_args()
    if unknown := set(options.sections) - set(SECTIONS):
        parser.error(f"unknown section {', '.join(sorted(unknown))}; known are {', '.join(SECTIONS)}")
    if options.threads and os.environ.get("OMP_NUM_THREADS") != str(options.threads):
        # NumPy and SciPy read this when they are loaded, which has happened by now.
        os.environ |= dict.fromkeys(
            ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads)
        )
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    sizes = SMALL if options.small else Sizes()
    show(cells for name in options.sections or SECTIONS for cells in SECTIONS[name](sizes))


if __name__ == "__main__":
    main()
