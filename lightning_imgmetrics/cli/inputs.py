"""The images of a command with all that belongs to them: prompts, targets, labels."""

from __future__ import annotations

import hashlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from lightning_imgmetrics.cli.request import Request, UsageError
from lightning_imgmetrics.data.open import open_images
from lightning_imgmetrics.data.prompts import Prompt, align_prompts, match_names, read_prompt_table
from lightning_imgmetrics.data.sources import ImageSource
from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.prompt_benchmarks.layouts import layout_of

Others = dict[str, list[tuple[ImageSource, Sequence[int]]]]  # kind -> sources, and which of their images


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
        return [self.source.name(i) for i in ids]

    def digest(self) -> str:
        """What tells this list of images from another, by names, prompts and labels; the pixels are not read."""
        listed = [self.names(range(len(self.source))), self.prompts, self.labels, dict(self.extras)]
        return hashlib.sha256(repr(listed).encode()).hexdigest()[:16]


class Part(ImageSource):
    """The first `n` images of a source."""

    def __init__(self, source: ImageSource, n: int):
        self.source, self.n = source, n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> Any:
        return self.source[index]

    def name(self, index: int) -> str:
        return self.source.name(index)


class Joined(ImageSource):
    """(image, others...): of each other source, image `places[i]` belongs to image i."""

    def __init__(self, source: ImageSource, others: Sequence[tuple[ImageSource, Sequence[int]]]):
        self.source, self.others = source, others

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Any:
        return self.source[index], *(other[places[index]] for other, places in self.others)

    def name(self, index: int) -> str:
        return self.source.name(index)


def open_sides(request: Request, *, needs: set[str]) -> tuple[dict[str, Side], tuple[str, ...] | None]:
    """The sides to measure by name, reference first, and the names of their classes.

    `needs`: "real", "prompts", "target", "labels", whatever the metrics ask for. A reference that is a statistics
    file is none of these.
    """
    sources, classes = {}, {}
    if "real" in needs and request.reference is not None and not is_statistics(request.reference, request):
        sources["reference"] = open_images(request.reference, alpha=request.alpha)
    prompts: list[Prompt] | None = None
    missing: tuple[str, ...] = ()
    others: Others = {}
    if request.generated is not None:
        if request.benchmark is not None:
            layout = layout_of(
                request.benchmark, request.generated, str(request.measures.questions), alpha=request.alpha
            )
            sources["generated"], missing = layout.images, tuple(layout.missing)
            prompts = [Prompt(prompt) for prompt in layout.prompts]
            others = {} if layout.source is None else {"source": [(layout.source, range(len(layout.images)))]}
        else:
            sources["generated"] = open_images(request.generated, alpha=request.alpha)
            prompts = _prompts(request, sources["generated"])
            others = _others(request, sources["generated"])
    if "labels" in needs:
        places = {"reference": (request.reference_labels, None), "generated": (request.labels, prompts)}
        classes = {name: _classes(source, *places[name], name) for name, source in sources.items()}
    known = sorted({title for titles in classes.values() for title in titles}, key=_natural)
    place = {title: i for i, title in enumerate(known)}
    sides = {}
    for name, source in sources.items():
        labels = [place[title] for title in classes[name]] if name in classes else None
        if name == "reference":
            sides[name] = Side(name, source, labels=labels)
            continue
        texts = None if prompts is None else [record.prompt for record in prompts]
        joined = Joined(source, [one for some in others.values() for one in some]) if others else source
        extras = {kind: len(some) for kind, some in others.items()}
        sides[name] = Side(name, _first(joined, request.limit), texts, labels, extras, missing)
    return sides, tuple(known) if classes else None


def is_statistics(text: str, request: Request) -> bool:
    """Whether a reference is a file of statistics and not of images, by its content.

    ADM's files hold both, of unlike numbers of images: images, unless the protocol is ADM's.
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
        return _is_statistics_archive(path, request.measures.protocol)
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


def _first(source: ImageSource, limit: int | None) -> ImageSource:
    if limit is None or limit == len(source):
        return source
    if limit > len(source):
        raise UsageError(f"--limit asks for {limit} images, there are {len(source)}")
    return Part(source, limit)


def _all_names(source: ImageSource) -> list[str]:
    return [source.name(i) for i in range(len(source))]


def _prompts(request: Request, source: ImageSource) -> list[Prompt] | None:
    return None if request.prompts is None else align_prompts(read_prompt_table(request.prompts), _all_names(source))


def _others(request: Request, source: ImageSource) -> Others:
    """The images that come with each generated one, by kind: sources, and which of their images."""
    given = {"target": (request.target,) if request.target else (), "source": request.source, "rivals": request.rivals}
    found: Others = {}
    for kind, texts in given.items():
        for text in texts:
            other = open_images(text, alpha=request.alpha)
            found.setdefault(kind, []).append((other, match_names(_all_names(source), _all_names(other))))
    return found


def _classes(source: ImageSource, given: str | None, prompts: list[Prompt] | None, side: str) -> list[str]:
    """The class of each image: of a file, of the npz, of the prompt table, or of the subfolder it lies in."""
    names = _all_names(source)
    if given not in (None, "folder"):
        prompts = align_prompts(read_prompt_table(str(given)), names)
    labels = getattr(source, "labels", None)
    if given is None and labels is not None:
        return [str(label) for label in labels.tolist()]
    if given != "folder" and prompts is not None and (given is not None or any(p.category for p in prompts)):
        lacking = [name for name, p in zip(names, prompts, strict=True) if p.category is None]
        if lacking:
            raise ShapeError(f"{len(lacking)} of {len(names)} {side} images have no category, such as {lacking[0]!r}")
        return [str(p.category) for p in prompts]
    folders = [PurePosixPath(name).parent.as_posix() for name in names]
    if "." in folders:
        option = "--labels" if side == "generated" else "--reference-labels"
        raise UsageError(
            f"the classes of the {side} images are needed: class subfolders, `arr_1` of an npz, or {option} FILE, a"
            f" prompt table with categories; got {names[folders.index('.')]!r}"
        )
    return folders


def _natural(text: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", text)]
