"""The images of a command with all that belongs to them: prompts, targets, labels."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lightning_imgmetrics.cli.request import Request, UsageError, errors_of
from lightning_imgmetrics.data.open import open_images
from lightning_imgmetrics.data.prompts import Prompt, align_prompts, match_names, read_prompt_table
from lightning_imgmetrics.data.sources import ImageSource
from lightning_imgmetrics.prompt_benchmarks.layouts import layout_of

Others = dict[str, list[tuple[ImageSource, Sequence[int]]]]  # kind -> sources, and which of their images
Opened = tuple["Side", Others, list[Prompt] | None]


@dataclass(frozen=True)
class Side:
    """The generated images or the reference; `prompts` and `labels` by position.

    `extras`: what other images come with each, "target", "source" or "rivals", and how many of them. `missing`: the
    items of a benchmark that have no image.
    """

    name: str
    source: ImageSource
    prompts: list[str] | None = None
    labels: list[int] | None = None
    extras: Mapping[str, int] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    @property
    def real(self) -> bool:
        return self.name == "reference"

    def names(self, ids: Sequence[int]) -> list[str]:
        return [self.source.image_name(i) for i in ids]

    def digest(self) -> str:
        """What tells this list of images from another, by names, prompts and labels; the pixels are not read."""
        listed = [self.names(range(len(self.source))), self.prompts, self.labels, dict(self.extras)]
        return hashlib.sha256(repr(listed).encode()).hexdigest()[:16]


class FirstImages(ImageSource):
    """The first `n` images of a source."""

    def __init__(self, source: ImageSource, n: int):
        self.source, self.n = source, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        return self.source[index]

    def image_name(self, index: int) -> str:
        return self.source.image_name(index)


class Joined(ImageSource):
    """(image, others...): of each other source, image `places[i]` belongs to image i."""

    def __init__(self, source: ImageSource, others: Sequence[tuple[ImageSource, Sequence[int]]]):
        self.source, self.others = source, others

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return self.source[index], *(other[places[index]] for other, places in self.others)

    def image_name(self, index: int) -> str:
        return self.source.image_name(index)


def open_sides(request: Request, *, real: bool, labels: bool) -> tuple[dict[str, Side], tuple[str, ...] | None]:
    """The sides to measure by name, reference first, and the names of their classes.

    `real`: the reference is measured; `labels`: the classes of the images are needed.
    """
    sides: dict[str, Side] = {}
    others: Others = {}
    records = titles = None
    if real:
        sides["reference"] = Side("reference", _opened("--reference", str(request.reference), request.alpha))
    if request.generated is not None:
        sides["generated"], others, records = _generated(request) if request.benchmark is None else _benchmark(request)
    if labels:
        sides, titles = _labeled(sides, request, records)
    if "generated" in sides:
        sides["generated"] = _completed(sides["generated"], others, request.limit)
    return sides, titles


def _opened(option: str, text: str, alpha: str) -> ImageSource:
    with errors_of(option):
        return open_images(text, alpha=alpha)


def _generated(request: Request) -> Opened:
    """Generated images, the images that come with each, and the rows of the prompt table."""
    source = _opened("the generated images", str(request.generated), request.alpha)
    names = _names(source)
    records = None
    if request.prompts is not None:
        with errors_of("--prompts"):
            records = align_prompts(read_prompt_table(request.prompts), names)
    others: Others = {}
    target = () if request.target is None else (request.target,)
    for kind, texts in {"target": target, "source": request.source, "rivals": request.rivals}.items():
        for text in texts:
            other = _opened(f"--{kind}", text, request.alpha)
            with errors_of(f"--{kind}"):
                others.setdefault(kind, []).append((other, match_names(names, _names(other))))
    prompts = None if records is None else [record.prompt for record in records]
    return Side("generated", source, prompts), others, records


def _benchmark(request: Request) -> Opened:
    """The images of a benchmark as it lays them out, and the images that it says were edited."""
    with errors_of(f"the images of {request.benchmark}"):
        layout = layout_of(
            str(request.benchmark), str(request.generated), str(request.spec.questions), alpha=request.alpha
        )
    others: Others = {} if layout.source is None else {"source": [(layout.source, range(len(layout.images)))]}
    return Side("generated", layout.images, layout.prompts, missing=tuple(layout.missing)), others, None


def _completed(side: Side, others: Others, limit: int | None) -> Side:
    """A side with the images that come with each of its own, up to the limit."""
    source = side.source
    if limit is not None and limit > len(source):
        raise UsageError(f"--limit asks for {limit} images, there are {len(source)}")
    if others:
        source = Joined(source, [pair for pairs in others.values() for pair in pairs])
    if limit is not None and limit < len(source):
        source = FirstImages(source, limit)
    return replace(side, source=source, extras={kind: len(pairs) for kind, pairs in others.items()})


def _names(source: ImageSource) -> list[str]:
    return [source.image_name(i) for i in range(len(source))]


# Classes


def _labeled(
    sides: Mapping[str, Side], request: Request, records: list[Prompt] | None
) -> tuple[dict[str, Side], tuple[str, ...]]:
    """The sides with the number of the class of each image, and the names of the classes by number."""
    options = {"reference": ("--reference-labels", request.reference_labels), "generated": ("--labels", request.labels)}
    classes = {}
    for name, side in sides.items():
        option, text = options[name]
        with errors_of(option):
            classes[name] = _classes(side, option, text, records if name == "generated" else None)
    titles = sorted({title for listed in classes.values() for title in listed}, key=_natural)
    number = {title: i for i, title in enumerate(titles)}
    return {k: replace(s, labels=[number[title] for title in classes[k]]) for k, s in sides.items()}, tuple(titles)


def _classes(side: Side, option: str, text: str | None, records: list[Prompt] | None) -> list[str]:
    """The class of each image: of a file, of the npz, of the prompt table, or of the subfolder it lies in."""
    names = _names(side.source)
    if text not in (None, "folder"):
        records = align_prompts(read_prompt_table(str(text)), names)
    labels = getattr(side.source, "labels", None)
    if text is None and labels is not None:
        return [str(label) for label in labels.tolist()]
    if text != "folder" and records is not None and (text is not None or any(r.category for r in records)):
        lacking = [name for name, r in zip(names, records, strict=True) if r.category is None]
        if lacking:
            raise UsageError(
                f"{len(lacking)} of {len(names)} {side.name} images have no category, such as {lacking[0]!r}"
            )
        return [str(r.category) for r in records]
    folders = [PurePosixPath(name).parent.as_posix() for name in names]
    if "." in folders:
        raise UsageError(
            f"the classes of the {side.name} images are needed: class subfolders, `arr_1` of an npz, or {option} FILE,"
            f" a prompt table with categories; got {names[folders.index('.')]!r}"
        )
    return folders


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]


# Statistics


def is_statistics(text: str, protocol: str | None) -> bool:
    """Whether a reference is a file of statistics and not of images, by its content.

    ADM's files hold both, of different numbers of images: images, unless the protocol is ADM's.
    """
    path = Path(text).expanduser()
    if not path.is_file():
        return False
    with open(path, "rb") as file:
        start = file.read(9)
        if start.startswith(b"\x93NUMPY"):
            file.seek(0)
            return _axes(file) == 2
    if start.startswith(b"PK"):
        return _is_statistics_archive(path, protocol)
    return path.suffix in (".safetensors", ".pkl", ".pickle") or start[8:] == b"{" or start.startswith(b"\x80\x04")


def _is_statistics_archive(path: Path, protocol: str | None) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            arrays = {name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")}
    except zipfile.BadZipFile:
        return False  # opening it as images says what is wrong
    held = arrays & {"mu", "sigma", "mu_s", "sigma_s", "feats", "reps"}
    if held and "arr_0" in arrays and protocol is None:
        raise UsageError(f"{path} holds images and statistics: --protocol adm takes the statistics, another the images")
    return bool(held) and ("arr_0" not in arrays or protocol == "adm")


def _axes(file: Any) -> int:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return len(read(file)[0])
    except ValueError:
        return 0
