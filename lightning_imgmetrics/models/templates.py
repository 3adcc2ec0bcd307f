"""Prompt texts that belong to others: where they are looked for, how they are read and checked, what stands in."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from filelock import FileLock, Timeout

from lightning_imgmetrics._files import cache_folder, write_atomically
from lightning_imgmetrics.errors import MissingWeights, WeightsMismatch
from lightning_imgmetrics.models.weights import offline

_PATIENCE = 30  # seconds that a download may be silent
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)\}")


@dataclass(frozen=True)
class TemplateCard:
    """Where the prompt text lies that a network was trained on.

    `source` is the URL, at a pinned revision, of the Python file that assigns the text to `symbol`: "NAME",
    "Class.NAME" or "NAME.key" for a key of a dict. `sha256` (leading digits suffice) is that of the text in UTF-8 and
    `length` its characters. `file` is the source's name in `IMGMETRICS_WEIGHTS`. `generic` has the same structure and
    placeholders in words of this package.
    """

    name: str
    source: str
    symbol: str
    sha256: str
    length: int
    file: str
    generic: str
    license: str = ""


@dataclass(frozen=True)
class Template:
    """A prompt text with `{name}` placeholders.

    `origin` is the first eight digits of its sha256, or "generic"; it belongs in signatures as `template`.
    """

    text: str
    origin: str

    def fill(self, /, **values: str) -> str:
        """The text with each placeholder replaced by its value, taken literally whatever braces it has.

        Braces that enclose no bare name, as in JSON, stay. TypeError unless `values` are texts for exactly the
        placeholders that are there.
        """
        names = dict.fromkeys(_PLACEHOLDER.findall(self.text))
        if values.keys() != names.keys():
            raise TypeError(f"`values` must fill the placeholders {list(names)}, got {list(values)}")
        for name, value in values.items():
            if not isinstance(value, str):
                raise TypeError(f"`{name}` must be a text, got {value!r}")
        return _PLACEHOLDER.sub(lambda match: values[match[1]], self.text)


def find_template(card: TemplateCard, path: str | Path | None = None) -> Template:
    """The text of `card`, verified; offline, and nowhere on this machine, its generic wording with a UserWarning.

    Looked for in this order: `path`, `IMGMETRICS_WEIGHTS`, `IMGMETRICS_CACHE`, download. A .py file is a source, which
    is read and not run; any other file is the text itself. What was downloaded is kept in the cache, so one process
    per file system asks for it. Raises MissingWeights (`path` is no file, or the download failed: were that a reason
    to fall back, ranks could score with unlike wordings) and WeightsMismatch (a file does not hold the text).
    """
    if path is not None and not Path(path).expanduser().is_file():
        raise MissingWeights(f"`path` for {card.name} must be an existing file, got {str(path)!r}")
    shelf = os.environ.get("IMGMETRICS_WEIGHTS")
    cache = cache_folder("templates") / f"{card.name}-{card.sha256[:8]}.txt"
    places = [Path(path)] if path is not None else [*([Path(shelf) / card.file] if shelf else []), cache]
    for place in (place.expanduser() for place in places):
        if place.is_file():
            return _read(card, place.read_bytes(), str(place))
    fetch = f"{card.source} and put it at {Path(shelf or '$IMGMETRICS_WEIGHTS') / card.file}"
    if offline():
        warnings.warn(
            f"the prompt {card.name} is not on this machine, and HF_HUB_OFFLINE or IMGMETRICS_OFFLINE is set. A wording"
            f" of this package stands in, which the network was not trained on; signatures say template=generic. Fetch"
            f" {fetch}, or pass its path",
            stacklevel=2,
        )
        return Template(card.generic, "generic")
    try:
        _download(card, cache)
    except (OSError, HTTPException) as error:
        raise MissingWeights(
            f"the prompt {card.name} is not on this machine and cannot be downloaded ({error!r}). Fetch {fetch}, or"
            " pass its path as `template`; or set IMGMETRICS_OFFLINE=1 on all ranks to score with a wording of this"
            " package"
        ) from error
    return _read(card, cache.read_bytes(), str(cache))


def _download(card: TemplateCard, cache: Path) -> None:
    """Put the text into `cache`, unless another process does; one that waited for another's failure tries no more."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(f"{cache}.lock")
    try:
        lock.acquire(timeout=0)
        first = True
    except Timeout:
        lock.acquire(timeout=2 * _PATIENCE)
        first = False
    try:
        if cache.is_file():
            return
        if not first:
            raise OSError("another process has tried in vain")
        with urlopen(card.source, timeout=_PATIENCE) as response:
            template = _read(card, response.read(), card.source)
        write_atomically(cache, lambda temporary: temporary.write_bytes(template.text.encode()))
    finally:
        lock.release()


def _read(card: TemplateCard, content: bytes, place: str) -> Template:
    """The text of `card` in the file or download `place`; WeightsMismatch if it is not there."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WeightsMismatch(f"{place} is not UTF-8, as the prompt {card.name} is: {error}") from error
    if place.endswith(".py"):
        text = _constant(text, card.symbol, place)
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    if len(text) != card.length or not digest.startswith(card.sha256):
        raise WeightsMismatch(
            f"{place} does not hold the prompt {card.name}: expected {card.length} characters whose sha256 begins with"
            f" {card.sha256}, found {len(text)} characters with {digest}"
        )
    return Template(text, digest[:8])


def _constant(source: str, symbol: str, place: str) -> str:
    """The text that `source` assigns to `symbol`; nothing in it is run."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in a source are its author's concern
            assigned = dict(_assigned(ast.parse(source).body))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise WeightsMismatch(f"{place} cannot be read as Python: {error}") from error
    if symbol not in assigned:
        texts = [name for name, value in assigned.items() if isinstance(_joined(value), str)]
        raise WeightsMismatch(f"{place} has no {symbol!r}; its texts are {', '.join(texts) or 'none'}")
    text = _joined(assigned[symbol])
    if not isinstance(text, str):
        kind = {"JoinedStr": "an f-string", "Call": "a call"}.get(type(text).__name__, f"a {type(text).__name__} node")
        raise WeightsMismatch(
            f"{symbol!r} in {place} must be constant texts, joined by + at most: sources are not run, and line"
            f" {text.lineno} has {kind}"
        )
    return text


def _assigned(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.expr]]:
    """Dotted name and value of each assignment of a module, of its classes, and of the keys of its dicts."""
    for statement in body:
        if isinstance(statement, ast.ClassDef):
            yield from _assigned(statement.body, f"{prefix}{statement.name}.")
        elif isinstance(statement, (ast.Assign, ast.AnnAssign)) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            for target in targets:
                if isinstance(target, ast.Name):
                    yield from _entries(prefix + target.id, statement.value)


def _entries(name: str, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    yield name, value
    if isinstance(value, ast.Dict):
        for key, item in zip(value.keys, value.values):
            if isinstance(key, ast.Constant) and isinstance(key.value, str):
                yield from _entries(f"{name}.{key.value}", item)


def _joined(value: ast.expr) -> str | ast.expr:
    """The text of string constants joined by +, or the first part that is none."""
    texts, parts = [], [value]
    while parts:
        part = parts.pop()
        if isinstance(part, ast.BinOp) and isinstance(part.op, ast.Add):
            parts += [part.right, part.left]
        elif isinstance(part, ast.Constant) and isinstance(part.value, str):
            texts.append(part.value)
        else:
            return part
    return "".join(texts)


_HPSV3_SOURCE = (
    "https://raw.githubusercontent.com/modelscope/DiffSynth-Studio/fed7b18fac2ed4cb802796eec91970e7659bccde"
    "/diffsynth/models/hpsv3.py"
)

HPSV3_INSTRUCTION = TemplateCard(
    "hpsv3-instruction",
    _HPSV3_SOURCE,
    "HPSV3_INSTRUCTION",
    "0393599dad45a971903d1d62a3acf9bad3ccccdafa7f40f680523419e1f68b7a",
    2523,
    "hpsv3.py",
    """
How much would people like this picture, which a model made from a text? Weigh how good it looks against how well it
follows the text, and answer with one number between 0 (nobody would want it) and 10 (nothing could be better).

**Visual Quality**
- **Reasonableness**: bodies, objects and places are built as they could be, without errors of anatomy or logic.
- **Clarity**: edges are sharp where they should be, and everything that matters can be made out at once.
- **Detail Richness**: surfaces, hair, cloth, light and shade are worked out finely.
- **Aesthetic and Creativity**: color, arrangement, depth and mood please the eye, and the idea is a fresh one.
- **Safety**: nothing is cruel, sexual or otherwise harmful; a picture that is gets the lowest number.

**Text Alignment**
- **Subject Relevance**: who and what the text names is there, as many as it says, doing what it says.
- **Style Relevance**: the medium or manner is the one that the text asks for, if it asks for any.
- **Contextual Consistency**: the surroundings suit the scene that the text sets.
- **Attribute Fidelity**: colors, clothes, expressions and other properties are those of the text.
- **Semantic Coherence**: the picture as a whole means what the text means and adds nothing against it.
Text: {text_prompt}
""",
    "Apache-2.0",
)

HPSV3_SUFFIX = TemplateCard(
    "hpsv3-suffix",
    _HPSV3_SOURCE,
    "HPSV3_PROMPT_WITH_SPECIAL_TOKEN",
    "2471faca094ae5bd6fe17b71dce20c3d7583625545e235889f7e74e7eeb69d0a",
    67,
    "hpsv3.py",
    "\nThe number that this picture deserves: <|Reward|>",
    "Apache-2.0",
)
