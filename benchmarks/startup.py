"""How long it takes until something can happen: imports and commands, each in a fresh process.

    python benchmarks/startup.py               # half a minute on 2 cores
    python benchmarks/startup.py --small       # to see that it runs

Prints a Markdown table: what was measured, ours, theirs, the ratio, and the seconds aimed at. Seconds are those of the
processors, user and system, so that another busy process changes them little.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from common import Row, note, row, show, smooth_images
from torchvision.transforms.functional import to_pil_image


def seconds(repeats: int, *arguments: str) -> float:
    """Median seconds of processor time of `python ARGUMENTS`."""
    taken = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        taken.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return statistics.median(taken)


def imports(repeats: int) -> Iterator[Row]:
    """The package, and its FID beside that of torchmetrics."""
    python = partial(seconds, repeats, "-c")
    bare = python("pass")
    yield row("import lightning_imgmetrics; theirs: Python alone", python("import lightning_imgmetrics"), bare, "0.1 s")
    name = "FrechetInceptionDistance"
    ours = python(f"from lightning_imgmetrics import {name}")
    theirs = python(f"from torchmetrics.image.fid import {name}")
    yield row(f"import {name}, vs torchmetrics", ours, theirs)
    callback = python("from lightning_imgmetrics import ImageMetricsCallback")
    lightning = python("import lightning.pytorch")
    yield row("import ImageMetricsCallback; theirs: Lightning alone", callback, lightning)


def commands(repeats: int) -> Iterator[Row]:
    """Commands of `imgmetrics`."""
    command = partial(seconds, repeats, "-m", "lightning_imgmetrics")
    torch = seconds(repeats, "-c", "import torch")
    yield row("imgmetrics --help; theirs: import torch", command("--help"), torch, "0.3 s")
    yield row("imgmetrics evaluate --help; theirs: import torch", command("evaluate", "--help"), torch, "0.3 s")
    with tempfile.TemporaryDirectory() as folder:
        for side, seed in (("generated", 0), ("reference", 1)):
            Path(folder, side).mkdir()
            for i, image in enumerate(smooth_images(4, 16, seed)):
                to_pil_image(image).save(f"{folder}/{side}/{i}.png")
        sides = f"{folder}/generated", "--reference", f"{folder}/reference"
        evaluation = command("evaluate", *sides, "--metrics", "fd_digits_clip", "--workers", "0")
    yield note("imgmetrics evaluate of 2 x 4 small images, all of it", f"{evaluation:.3f} s", aim="2.5 s")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="measure each once")
    repeats = 1 if parser.parse_args(argv).small else 5
    show(cells for section in (imports, commands) for cells in section(repeats))


if __name__ == "__main__":
    main()
