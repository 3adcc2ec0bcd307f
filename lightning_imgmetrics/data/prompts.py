"""Prompts to sample for, and the prompts that images were sampled for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lightning_imgmetrics.data.named_datasets import HF, hf_column
from lightning_imgmetrics.data.records import table_rows, text_of
from lightning_imgmetrics.data.sources import EXTENSIONS, files_below
from lightning_imgmetrics.errors import ShapeError

_PROMPT = ("prompt", "text", "caption")
_FILE = ("file", "file_name", "filename", "image", "image_path", "path")
_CATEGORY = ("category", "label")
_SHOWN = 5


@dataclass(frozen=True)
class Prompt:
    """A prompt, the image file it belongs to (a relative path, or one without its suffix) and its category."""

    prompt: str
    file: str | None = None
    category: str | None = None


def read_prompts(prompts: Sequence[str] | str | Path | None) -> list[str] | None:
    """Texts as they are, or those of what `read_prompt_table` takes; ShapeError where there are none."""
    if prompts is None:
        return None
    if isinstance(prompts, str | Path):
        return [record.prompt for record in read_prompt_table(prompts)]
    if not prompts or not all(isinstance(p, str) for p in prompts):
        raise ShapeError(f"`prompts` must be a list of at least one text, or a file with one per line, got {prompts!r}")
    return list(prompts)


def read_prompt_table(source: str | Path) -> list[Prompt]:
    """The prompts in a file or folder, in its order, with image file and category where they are given.

    A text file with one per line (blank lines may only end it); .jsonl with an object per line, or .csv with a header:
    "prompt" (else "text", "caption"), "file" (else "file_name", "filename", "image", "image_path", "path"), "category"
    (else "label"); a folder with one .txt per image, which is the image's path without suffix, sorted;
    "hf:NAME:SPLIT:COLUMN". ShapeError, with the line, for an entry without a prompt, and for no prompt at all.
    """
    path = Path(source).expanduser()
    if str(source).startswith(HF):
        records = _from_hub(str(source))
    elif path.is_dir():
        records = [_from_sidecar(path, file) for file in files_below(path, (".txt",))]
    elif path.suffix.lower() in (".jsonl", ".csv"):
        rows = table_rows(path, (*_PROMPT, *_FILE, *_CATEGORY), ShapeError)
        records = [_record(row.values, row.where) for row in rows]
    else:
        records = [Prompt(line) for line in _lines(path)]
    if not records:
        raise ShapeError(f"`prompts` must hold at least one text, found none in {source}")
    return records


def align_prompts(records: Sequence[Prompt], names: Sequence[str]) -> list[Prompt]:
    """The records in the order of the images `names`: by file where the records name files, else by position.

    ShapeError, with at most five of them, for images and records without a partner, or with several.
    """
    files = [record.file for record in records if record.file is not None]
    if not files:
        shared = min(len(names), len(records))
        _refuse_unpaired(names, records, list(names[shared:]), [r.prompt for r in records[shared:]])
        return list(records)
    if len(files) != len(records):
        raise ShapeError(f"all prompts or none must name their image file, got {len(files)} of {len(records)}")
    return [records[i] for i in match_names(names, files)]


def match_names(names: Sequence[str], others: Sequence[str]) -> list[int]:
    """For each name the position of its partner in `others`, which must be the same set of names in any order.

    Compared in turn as paths, as paths without the suffix of an image, as file names, and as file names without it,
    until each has exactly one partner. ShapeError with at most five of those that have none or several.
    """
    unpaired = [_unpaired(names, others, key) for key in _KEYS]
    key, (left, right) = min(zip(_KEYS, unpaired, strict=True), key=lambda item: sum(map(len, item[1])))
    _refuse_unpaired(names, others, left, right)
    place = {key(other): i for i, other in enumerate(others)}
    return [place[key(name)] for name in names]


def _path(name: str) -> str:
    return PurePosixPath(name.replace("\\", "/")).as_posix()


def _without_suffix(name: str) -> str:
    path = PurePosixPath(_path(name))
    return path.with_suffix("").as_posix() if path.suffix.lower() in EXTENSIONS else path.as_posix()


_KEYS: tuple[Callable[[str], str], ...] = (
    _path,
    _without_suffix,
    lambda name: PurePosixPath(_path(name)).name,
    lambda name: PurePosixPath(_without_suffix(name)).name,
)


def _unpaired(names: Sequence[str], others: Sequence[str], key: Callable[[str], str]) -> tuple[list[str], list[str]]:
    left, right = Counter(map(key, names)), Counter(map(key, others))
    paired = {k for k, count in left.items() if count == right[k] == 1}
    return [x for x in names if key(x) not in paired], [x for x in others if key(x) not in paired]


def _refuse_unpaired(names: Sequence[str], others: Sequence[Any], left: list[str], right: list[str]) -> None:
    if left or right:
        shown = [f"image {x!r}" for x in left[:_SHOWN]] + [f"partner {x!r}" for x in right[:_SHOWN]]
        raise ShapeError(
            f"{len(names)} images and {len(others)} partners must pair one to one,"
            f" {len(left)} and {len(right)} do not: {', '.join(shown[:_SHOWN])}"
        )


def _record(row: Mapping[str, Any], where: str) -> Prompt:
    prompt, file, category = (
        next((row[key] for key in keys if row.get(key) is not None), None) for keys in (_PROMPT, _FILE, _CATEGORY)
    )
    if not isinstance(prompt, str) or not prompt.strip():
        raise ShapeError(f"{where}: no text under {' or '.join(map(repr, _PROMPT))}, got {sorted(map(str, row))}")
    return Prompt(
        prompt, file if isinstance(file, str) and file else None, None if category in (None, "") else str(category)
    )


def _lines(path: Path) -> list[str]:
    lines = text_of(path, ShapeError).rstrip().splitlines()
    blank = next((number for number, line in enumerate(lines, 1) if not line.strip()), None)
    if blank is not None:  # without it, the prompts below would belong to other images
        raise ShapeError(f"{path}, line {blank}: holds no prompt")
    return lines


def _from_sidecar(folder: Path, file: str) -> Prompt:
    text = text_of(folder / file, ShapeError).strip()
    if not text:
        raise ShapeError(f"{folder / file} holds no prompt")
    return Prompt(text, file[: -len(".txt")])


def _from_hub(source: str) -> list[Prompt]:
    data, column = hf_column(source)
    files = [key for key in _FILE if key in data.column_names and getattr(data.features[key], "dtype", "") == "string"]
    categories = [key for key in _CATEGORY if key in data.column_names]
    classes = {key: getattr(data.features[key], "names", None) for key in categories}
    records = []
    for i, row in enumerate(data.select_columns(list(dict.fromkeys([column, *files, *categories])))):
        known = {key: names for key, names in classes.items() if names and row[key] is not None}
        named = {key: names[row[key]] if row[key] >= 0 else None for key, names in known.items()}  # -1: not known
        records.append(_record({**row, **named, _PROMPT[0]: row[column]}, f"{source}, row {i}"))
    return records
