"""Datasets named by text: "hf:NAME:SPLIT:COLUMN" and "torchvision:CLASS:SPLIT:ROOT"."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from lightning_imgmetrics.errors import ShapeError, UnknownName, UnreadableImage, require

HF, TORCHVISION = "hf:", "torchvision:"
_SAVED = ("dataset_dict.json", "state.json")  # by `save_to_disk`


def hf_column(text: str) -> tuple[Any, str]:
    """The Hugging Face dataset that "hf:NAME:SPLIT:COLUMN" names, and COLUMN.

    NAME: an id on the hub, a folder with data files, or one that `save_to_disk` wrote. Needs `datasets`, which alone
    decides about network and cache. UnknownName for a split or column that is not there.
    """
    parts = text.split(":")
    if len(parts) != 4 or not all(parts[1:]):
        raise ShapeError(f"a Hugging Face dataset is written 'hf:NAME:SPLIT:COLUMN', got {text!r}")
    _, name, split, column = parts
    datasets = require("datasets", "datasets")
    folder = Path(name).expanduser()
    if any((folder / file).is_file() for file in _SAVED):
        data = datasets.load_from_disk(str(folder))
        splits = data if isinstance(data, dict) else {str(data.split or split): data}
        if split not in splits:
            raise UnknownName("split", split, splits)
        data = splits[split]
    else:
        data = datasets.load_dataset(name, split=split)
    if column not in data.column_names:
        raise UnknownName("column", column, data.column_names)
    return data, column


def hf_images(text: str) -> tuple[Any, str]:
    """As `hf_column`, with images left encoded, so that they are decoded by our rule and not by the library's."""
    data, column = hf_column(text)
    data = data.select_columns([column])
    image = require("datasets", "datasets").Image
    if isinstance(data.features[column], image):
        data = data.cast_column(column, image(decode=False))
    return data, column


def torchvision_dataset(text: str) -> Any:
    """The dataset that "torchvision:CLASS:SPLIT:ROOT" names; it must be in the folder ROOT, nothing is downloaded.

    SPLIT goes to the argument `train`, `split` or `image_set`, whichever CLASS has; where it has none it stays empty,
    as ROOT does for a class without one.
    """
    import torchvision

    parts = text.split(":", 3)
    if len(parts) != 4:
        raise ShapeError(f"a torchvision dataset is written 'torchvision:CLASS:SPLIT:ROOT', got {text!r}")
    _, name, split, root = parts
    known = torchvision.datasets.__all__
    if name not in known:
        raise UnknownName("CLASS", name, known)
    kind = getattr(torchvision.datasets, name)
    taken = inspect.signature(kind).parameters
    arguments: dict[str, Any] = {"root": str(Path(root).expanduser())} if "root" in taken else {}
    key = next((key for key in ("train", "split", "image_set") if key in taken), None)
    if (key is None) != (not split) or (key == "train" and split not in ("train", "test")):
        wanted = "empty" if key is None else "'train' or 'test'" if key == "train" else "one of its splits"
        raise ShapeError(f"the SPLIT of {name} must be {wanted}, got {text!r}")
    if key is not None:
        arguments[key] = split == "train" if key == "train" else split
    try:
        return kind(**arguments)
    except (RuntimeError, OSError, ValueError) as error:
        raise UnreadableImage(f"{text!r} cannot be opened: {error}") from error
