"""How the images of benchmarks lie on disk, and which prompts they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from lightning_imgmetrics.data.decode import check_alpha, decode
from lightning_imgmetrics.data.sources import ImageSource
from lightning_imgmetrics.errors import ShapeError, UnknownName
from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import StoredImage, images_of, read_gedit
from lightning_imgmetrics.prompt_benchmarks.base.question_files import read_dpg, read_image_map, read_tifa
from lightning_imgmetrics.prompt_benchmarks.geneval.files import geneval_images, read_geneval
from lightning_imgmetrics.prompt_benchmarks.text_rendering.targets import read_text_targets


class ListedImages(ImageSource):
    """Files, or images stored in a dataset, by name, in the order given."""

    def __init__(self, images: Sequence[tuple[str, Path | StoredImage]], *, alpha: str = "drop"):
        self.images, self.alpha = list(images), check_alpha(alpha)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        name, image = self.images[index]
        return decode(image.read() if isinstance(image, StoredImage) else image, alpha=self.alpha, name=name)

    def image_name(self, index: int) -> str:
        return self.images[index][0]


@dataclass(frozen=True)
class Layout:
    """Images, what they were edited from if anything, and the items that have no image.

    `prompts`: what tells a metric the item of each image: its name, as prompts can be equal; for "geneval" the prompt.
    """

    images: ImageSource
    prompts: list[str]
    source: ImageSource | None
    missing: list[str]


def layout_of(benchmark: str, images: str | Path, questions: str | Path, *, alpha: str = "drop") -> Layout:
    """The images of a benchmark: "tifa" by id (or a JSON map of ids to files), "dpg" by item, "geneval" in numbered
    folders, "gedit" as fullset/TASK/LANGUAGE/KEY, "text" by id. ShapeError where there is none at all.
    """
    if benchmark not in _LAYOUTS:
        raise UnknownName("benchmark", benchmark, _LAYOUTS)
    entries, prompts, sources, missing = _LAYOUTS[benchmark](Path(images).expanduser(), Path(questions).expanduser())
    if not entries:
        some = ", ".join(map(repr, missing[:3]))
        raise ShapeError(f"no image of {benchmark} lies in {images}: expected {some} and {len(missing)} in all")
    source = ListedImages(sources, alpha=alpha) if sources else None
    return Layout(ListedImages(entries, alpha=alpha), prompts, source, missing)


_Listed = tuple[list[tuple[str, Any]], list[str], list[tuple[str, Any]], list[str]]


def _tifa(images: Path, questions: Path) -> _Listed:
    names = list(dict.fromkeys(question.id for question in read_tifa(questions)))
    if images.suffix.lower() == ".json":
        files: Mapping[str, Path] = read_image_map(images)
        return _by_name({name: files[name] for name in names if name in files}, names)
    return _by_name(images_of(images, names)[0], names)


def _dpg(images: Path, questions: Path) -> _Listed:
    names = list(dict.fromkeys(question.item_id for question in read_dpg(questions).questions))
    return _by_name(images_of(images, names)[0], names)


def _text(images: Path, questions: Path) -> _Listed:
    names = [target.id for target in read_text_targets(questions)]
    return _by_name(images_of(images, names)[0], names)


def _geneval(images: Path, questions: Path) -> _Listed:
    layout_images = geneval_images(images, read_geneval(questions))
    listed = [(item.file, images / item.file) for item in layout_images.items]
    return listed, [item.prompt.prompt for item in layout_images.items], [], list(layout_images.missing)


def _gedit(images: Path, questions: Path) -> _Listed:
    items = {item.name: item for item in read_gedit(questions)}
    files, missing = images_of(images, items)
    sources = [(f"source of {name}", items[name].source) for name in files]
    return list(files.items()), list(files), sources, missing


def _by_name(files: Mapping[str, Path], names: Sequence[str]) -> _Listed:
    return list(files.items()), list(files), [], [name for name in names if name not in files]


_LAYOUTS: dict[str, Callable[[Path, Path], _Listed]] = {
    "geneval": _geneval,
    "dpg": _dpg,
    "tifa": _tifa,
    "gedit": _gedit,
    "text": _text,
}
