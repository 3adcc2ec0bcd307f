"""The samples of GEdit-Bench and the prompts of GenAI-Bench, from their public files; the images of a benchmark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_imgmetrics.data.named_datasets import HF, hf_column
from lightning_imgmetrics.data.records import Row, json_rows, json_value, refuse_duplicates, shown
from lightning_imgmetrics.errors import UnreadableImage, UnreadableQuestions, require

_IMAGES = (".png", ".jpg", ".jpeg", ".webp")
_GEDIT_TEXTS = ("task_type", "key", "instruction", "instruction_language", "Intersection_exist")
_LANGUAGES = {"en": "en", "cn": "cn", "zh": "cn"}


@dataclass(frozen=True)
class StoredImage:
    """An image in a row of a Hugging Face dataset, which stays there, encoded, until it is asked for."""

    dataset: Any
    row: int
    column: str

    def read(self) -> Any:
        """The encoded image, for `decode`."""
        return self.dataset[self.row][self.column]


@dataclass(frozen=True)
class GEditItem:
    """An edit of an image, for `GEditBench`.

    Args:
        key: the name of the sample within its group and language.
        task_type: the group of edits.
        instruction: what is to be done.
        language: of the instruction, "en" or "cn".
        source: the image before the edit.
        intersection: whether all published models have an answer.

    Example:
        >>> from pathlib import Path
        >>> from lightning_imgmetrics import GEditItem
        >>> GEditItem("0", "color_alter", "make it red", "en", Path("before.png"), True).name
        'fullset/color_alter/en/0'
    """

    key: str
    task_type: str
    instruction: str
    language: str
    source: Path | StoredImage
    intersection: bool

    @property
    def name(self) -> str:
        """Where the public layout has the edited image, without suffix."""
        return f"fullset/{self.task_type}/{self.language}/{self.key}"


@dataclass(frozen=True)
class GenAiPrompts:
    """Prompt by id, and by skill the ids of the prompts that need it; a prompt may have no skill."""

    prompts: dict[str, str]
    skills: dict[str, tuple[str, ...]]


def read_gedit(path: str | Path) -> list[GEditItem]:
    """The samples in a .json list or .jsonl file with the public columns, or those of split "train" of a dataset.

    In a file, "input_image" is a path, from the folder of the file where it is relative. A dataset (needs `datasets`)
    is a .parquet file, a folder, or a name on the hub: "stepfun-ai/GEdit-Bench". The image is the one that answers are
    judged against, not "input_image_raw". UnreadableQuestions, with file and row, for missing columns, a language other
    than "en" and "cn" ("zh" is "cn"), and a sample that comes twice.
    """
    file = Path(path).expanduser()
    if file.suffix.lower() in (".json", ".jsonl"):
        rows = list(json_rows(file))
        sources: Iterable[Path | StoredImage] = (
            file.parent / Path(row.text("input_image")).expanduser() for row in rows
        )
    else:
        dataset = _gedit_dataset(file if file.exists() else str(path))
        texts = dataset.select_columns(list(_GEDIT_TEXTS))
        rows = [Row(values, f"{path}, row {number}") for number, values in enumerate(texts, 1)]
        sources = (StoredImage(dataset, i, "input_image") for i in range(len(rows)))
    if not rows:
        raise UnreadableQuestions(f"{path}: must hold at least one object, got an empty file")
    items = [_gedit(row, source) for row, source in zip(rows, sources, strict=True)]
    refuse_duplicates([item.name for item in items], rows, ("task_type", "instruction_language", "key"))
    return items


def read_genai(prompts: str | Path, skills: str | Path) -> GenAiPrompts:
    """GenAI-Bench from genai_image.json, {id: {"prompt": ...}}, and genai_skills.json, {skill: [numbers of prompts]}.

    The number of a prompt is its id without leading zeros. UnreadableQuestions, with file and entry, for another
    layout, ids that are no number or the same one, and a skill with a prompt that is not there.
    """
    prompts, skills = Path(prompts).expanduser(), Path(skills).expanduser()
    texts = {name: _prompt(value, f"{prompts}, entry {name!r}") for name, value in _entries(prompts)}
    numbers: dict[int, str] = {}
    for name in texts:
        if not name.isdecimal() or numbers.setdefault(int(name), name) != name:
            raise UnreadableQuestions(f"{prompts}, entry {name!r}: the id must be a number that no other entry has")
    return GenAiPrompts(texts, {skill: _ids(skills, skill, ids, numbers) for skill, ids in _entries(skills)})


def images_of(folder: str | Path, names: Iterable[str]) -> tuple[dict[str, Path], list[str]]:
    """The image file of each name that has one, and the names without.

    A name is a file's path below `folder` without its suffix, which is .png, .jpg, .jpeg or .webp in any case: an item
    of DPG-Bench, the id of a prompt, `GEditItem.name`. UnreadableImage for two files of one name, and for no folder.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise UnreadableImage(f"`folder` must be a folder of images, got {str(folder)!r}")
    by_name: dict[str, Path] = {}
    missing = []
    listings: dict[Path, dict[str, list[Path]]] = {}
    for name in dict.fromkeys(names):
        place = folder / PurePosixPath(name)
        if place.parent not in listings:
            listings[place.parent] = _by_stem(place.parent)
        files = listings[place.parent].get(place.name, [])
        if len(files) > 1:
            raise UnreadableImage(f"one image must be named {name!r}, got {files[0]} and {files[1]}")
        if files:
            by_name[name] = files[0]
        else:
            missing.append(name)
    return by_name, missing


def _gedit_dataset(source: Path | str) -> Any:
    datasets = require("datasets", "datasets")
    if isinstance(source, Path) and source.suffix.lower() == ".parquet":
        data = datasets.load_dataset("parquet", data_files=str(source), split="train")
    else:
        data, _ = hf_column(f"{HF}{source}:train:input_image")
    columns = [*_GEDIT_TEXTS, "input_image"]
    if missing := [column for column in columns if column not in data.column_names]:
        raise UnreadableQuestions(f"{source}: must have the columns {missing}, got {shown(data.column_names)}")
    data = data.select_columns(columns)
    encoded = isinstance(data.features["input_image"], datasets.Image)
    return data.cast_column("input_image", datasets.Image(decode=False)) if encoded else data


def _gedit(row: Row, source: Path | StoredImage) -> GEditItem:
    language = row.text("instruction_language")
    if language not in _LANGUAGES:
        row.refuse("instruction_language", 'be "en" or "cn"')
    return GEditItem(
        row.name("key"),
        row.text("task_type"),
        row.text("instruction"),
        _LANGUAGES[language],
        source,
        row.flag("Intersection_exist"),
    )


def _entries(path: Path) -> Iterator[tuple[str, Any]]:
    values = json_value(path)
    if not isinstance(values, dict) or not values:
        raise UnreadableQuestions(f"{path}: must be an object with at least one entry, got {shown(values)}")
    yield from values.items()


def _prompt(value: Any, where: str) -> str:
    if not isinstance(value, dict):
        raise UnreadableQuestions(f'{where}: must be an object with a "prompt", got {shown(value)}')
    return Row(value, where).text("prompt")


def _ids(path: Path, skill: str, ids: Any, numbers: dict[int, str]) -> tuple[str, ...]:
    if not isinstance(ids, list):
        raise UnreadableQuestions(f"{path}, entry {skill!r}: must be a list of numbers of prompts, got {shown(ids)}")
    for number in ids:
        if isinstance(number, bool) or not isinstance(number, int) or number not in numbers:
            raise UnreadableQuestions(f"{path}, entry {skill!r}: must hold numbers of prompts, got {shown(number)}")
    return tuple(numbers[number] for number in ids)


def _by_stem(folder: Path) -> dict[str, list[Path]]:
    listing: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()) if folder.is_dir() else ():
        if file.suffix.lower() in _IMAGES and file.is_file():
            listing.setdefault(file.stem, []).append(file)
    return listing
