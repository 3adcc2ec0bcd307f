"""GenEval's files: prompts, and folders of images that were made for them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from lightning_imgmetrics.data.records import json_values, placed
from lightning_imgmetrics.errors import UnreadableQuestions
from lightning_imgmetrics.prompt_benchmarks.geneval.prompts import GenEvalPrompt


class GenEvalImage(NamedTuple):
    """An image file, as a POSIX path relative to its folder, and what it was made for."""

    file: str
    prompt: GenEvalPrompt


@dataclass(frozen=True)
class GenEvalImages:
    """The images of a folder, by prompt and sample, and the files that should be there and are not."""

    items: tuple[GenEvalImage, ...]
    missing: tuple[str, ...]


def read_geneval(path: str | Path) -> list[GenEvalPrompt]:
    """The prompts of a file like `evaluation_metadata.jsonl`, in its order.

    UnreadableQuestions, with the line, for an unknown task, class, color or relation, a relation to a clause that does
    not come before, anything else that would not be checked, and for no prompt at all.
    """
    prompts = [placed(GenEvalPrompt.of, row, where) for where, row in json_values(Path(path).expanduser())]
    if not prompts:
        raise UnreadableQuestions(f"{path} holds no prompt")
    return prompts


def geneval_images(
    folder: str | Path, prompts: Sequence[GenEvalPrompt] | None = None, *, samples: int = 4
) -> GenEvalImages:
    """The images `NNNNN/samples/KKKK.png` below a folder, each with the prompt in `NNNNN/metadata.jsonl`.

    Every folder from 0 to the highest should hold the samples 0 to `samples` - 1; more are taken, too. With `prompts`,
    folder N is that of prompt N: there should be one for each, and its metadata, if any, must agree.
    UnreadableQuestions: no image, a folder without metadata or with two prompts, or metadata that do not agree.
    """
    root = Path(folder).expanduser()
    folders = {int(p.name): p for p in sorted(root.glob("*")) if p.is_dir() and _is_number(p.name)}
    if prompts is not None and any(n >= len(prompts) for n in folders):
        raise UnreadableQuestions(f"{root} must have one folder for each of {len(prompts)} prompts, has {max(folders)}")
    items, missing = [], []
    for n in range(max(folders, default=-1) + 1 if prompts is None else len(prompts)):
        here = folders.get(n, root / f"{n:05}")
        files = {int(p.stem): p for p in sorted(here.glob("samples/*.png")) if _is_number(p.stem)}
        prompt = _prompt_of(here, None if prompts is None else prompts[n]) if files else None
        items += [GenEvalImage(files[k].relative_to(root).as_posix(), prompt) for k in sorted(files) if prompt]
        missing += [f"{here.name}/samples/{k:04}.png" for k in range(samples) if k not in files]
    if not items:
        raise UnreadableQuestions(f"{root} holds no image NNNNN/samples/KKKK.png")
    return GenEvalImages(tuple(items), tuple(missing))


def _is_number(name: str) -> bool:
    return re.fullmatch(r"[0-9]{1,5}", name) is not None  # a date is no number of a prompt


def _prompt_of(folder: Path, expected: GenEvalPrompt | None) -> GenEvalPrompt:
    path = folder / "metadata.jsonl"
    if not path.is_file():
        if expected is not None:
            return expected
        raise UnreadableQuestions(f"{path} cannot be read: there is no such file")
    prompts_here = read_geneval(path)
    if len(prompts_here) > 1 or expected not in (None, prompts_here[0]):
        got = f"{len(prompts_here)} of them" if len(prompts_here) > 1 else repr(prompts_here[0].prompt)
        requirement = "one prompt" if expected is None else f"that of its number, {expected.prompt!r}"
        raise UnreadableQuestions(f"{path} must hold {requirement}, got {got}")
    return prompts_here[0]
