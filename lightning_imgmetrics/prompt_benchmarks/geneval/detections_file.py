"""Objects that any detector found in images, read from a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from lightning_imgmetrics.data.records import json_values, parsed, placed
from lightning_imgmetrics.errors import UnreadableQuestions
from lightning_imgmetrics.models.detection.detections import CLASSES, COCO_NAMES, Detection, RunLengths

_LAYOUT = re.compile(r"(?:^|[/\\])([0-9]{5}/samples/[0-9]+\.\w+)$")
_IMAGE = ("image", "file", "file_name", "filename", "path", "id")


def read_detections(path: str | Path) -> dict[str, list[Detection]]:
    """The detections in each image: {image: its detections}, from .jsonl with an object per line or .json with a list.

    {"image": name, "detections": [{"class", "score", "box", "mask", "color"}, ...]}; the name also under "file",
    "file_name", "filename", "path" or "id". "class": a name of COCO or GenEval, or a number 0..79 in COCO's order.
    "box": [x0, y0, x1, y1] in pixels. "mask", if any: of the whole image, as COCO stores it, {"size": [h, w],
    "counts": runs or string}. "color", if any: one of GenEval's. Also GenEval's own `results.jsonl`, whose "details"
    are what was found, without masks and colors; its images are called NNNNN/samples/KKKK.png then.
    UnreadableQuestions, with the line, for all else, an image that comes twice, and no image at all.
    """
    by_image: dict[str, list[Detection]] = {}
    for where, row in json_values(Path(path).expanduser()):
        name, detections = placed(_image, row, where)
        if name in by_image:
            raise UnreadableQuestions(f"{where}: the image {name!r} comes twice")
        by_image[name] = detections
    if not by_image:
        raise UnreadableQuestions(f"{path} holds the detections of no image")
    return by_image


def _image(row: Any) -> tuple[str, list[Detection]]:
    name = next((row[key] for key in _IMAGE if key in row), None) if isinstance(row, dict) else None
    if type(name) is str and "details" in row and "detections" not in row:
        return _published(name, row["details"])
    if type(name) not in (str, int) or not isinstance(row.get("detections"), list):
        raise UnreadableQuestions(f'must be an object with "image" and a list "detections", got {str(row)[:80]}')
    return str(name), [_detection(stored, i) for i, stored in enumerate(row["detections"])]


def _published(name: str, details: Any) -> tuple[str, list[Detection]]:
    """{class: [[x0, y0, x1, y1, score], ...]}, which the published program writes as JSON within JSON."""
    details = parsed(details) if isinstance(details, str) else details
    if not isinstance(details, dict) or not all(isinstance(boxes, list) for boxes in details.values()):
        raise UnreadableQuestions(f'"details" must be an object with boxes by class, got {str(details)[:80]}')
    objects = []
    for label, boxes in details.items():
        for box in boxes:
            if not isinstance(box, list) or len(box) != 5 or not all(type(x) in (int, float) for x in box):
                raise UnreadableQuestions(f"a box of {label!r} must be [x0, y0, x1, y1, score], got {str(box)[:80]}")
            objects.append(Detection(_label(label), float(box[4]), tuple(map(float, box[:4]))))  # type: ignore[arg-type]
    in_layout = _LAYOUT.search(name)
    return (in_layout[1] if in_layout else name), objects


def _detection(stored: Any, place: int) -> Detection:
    score, box = (stored.get(key) for key in ("score", "box")) if isinstance(stored, dict) else (None, None)
    if type(score) not in (int, float) or not isinstance(box, list) or len(box) != 4:
        raise UnreadableQuestions(
            f'detection {place} must have "class", "score" and "box": [x0, y0, x1, y1], got {str(stored)[:80]}'
        )
    if not all(type(x) in (int, float) for x in box):
        raise UnreadableQuestions(f'"box" of detection {place} must be four numbers, got {box}')
    mask = None if stored.get("mask") is None else RunLengths.of(stored["mask"])
    return Detection(_label(stored.get("class")), float(score), tuple(map(float, box)), mask, stored.get("color"))  # type: ignore[arg-type]


def _label(name: Any) -> str:
    if type(name) is int and 0 <= name < len(CLASSES):
        return CLASSES[name]
    label = COCO_NAMES.get(name, name) if isinstance(name, str) else None
    if label not in CLASSES:
        raise UnreadableQuestions(f'"class" must be one of COCO\'s 80 names or 0..{len(CLASSES) - 1}, got {name!r}')
    return label
