"""Answers of judges on disk, under a digest of everything that may change them."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from torch import Tensor

from lightning_imgmetrics._files import cache_folder, write_atomically
from lightning_imgmetrics.judges.backends.question import Answer, Decoding, Question


def question_keys(
    questions: Sequence[Question], decoding: Decoding, identity: Mapping[str, object] | None
) -> list[str]:
    """A SHA-256 for each question of who answers it, how, and what it shows and says."""
    digests: dict[int, str] = {}

    def digest(image: Tensor) -> str:
        if id(image) not in digests:
            content = image.contiguous().cpu().numpy().tobytes()
            digests[id(image)] = hashlib.sha256(f"{tuple(image.shape)}".encode() + content).hexdigest()
        return digests[id(image)]

    setting = {"judge": identity, "decoding": asdict(decoding)}
    keys = []
    for q in questions:
        content = {"images": [digest(x) for x in q.images], "messages": q.messages, "answer": q.answer}
        text = json.dumps({**setting, **content, "scoring": q.scoring}, sort_keys=True, default=str)
        keys.append(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest())
    return keys


def load_answer(key: str) -> Answer | None:
    """The answer under `key`; None where there is none, or a damaged one."""
    try:
        return Answer(**json.loads(_file(key).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def store_answer(key: str, answer: Answer) -> None:
    """Keep an answer; where the disk cannot, warn: a full one must not end a training run, nor lose paid answers."""
    text = json.dumps({"text": answer.text, "probability": answer.probability})
    try:
        _file(key).parent.mkdir(parents=True, exist_ok=True)
        write_atomically(_file(key), lambda temporary: temporary.write_text(text, encoding="utf-8"))
    except OSError as error:
        warnings.warn(f"answers of judges cannot be cached and will be asked for again: {error}", stacklevel=2)


def _file(key: str) -> Path:
    return cache_folder("answers") / key[:2] / f"{key}.json"
