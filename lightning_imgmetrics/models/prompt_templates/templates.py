"""Prompt texts that belong to others: where they are looked for, how they are read and checked, what stands in."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

from filelock import FileLock, Timeout

from lightning_imgmetrics._files import cache_folder, write_atomically
from lightning_imgmetrics.errors import MissingWeights, WeightsMismatch
from lightning_imgmetrics.models.base.weights import offline
from lightning_imgmetrics.models.prompt_templates.python_source import read_texts
from lightning_imgmetrics.models.prompt_templates.quoting import inert

_PATIENCE = 30  # seconds that a download may be silent


@dataclass(frozen=True)
class TemplateCard:
    """Where the prompt text lies that a network was trained on.

    `source` is the URL, at a pinned revision, of the Python file whose `symbol` is the text ("NAME", "Class.NAME",
    "NAME.key" of a dict, "function.name", "function.return"); the texts of several are joined by newlines. `sha256` is
    that of the constant text in UTF-8 as it stands there, `length` its characters: f-string fields count as empty.
    `slots` are the placeholders, which the source spells {name} or <name>; all other braces are text, doubled ones if
    `escaped`, for str.format. `generic` has the same structure and placeholders in words of this package.
    """

    name: str
    source: str
    symbol: str | tuple[str, ...]
    sha256: str
    length: int
    generic: str
    slots: tuple[str, ...] = ()
    escaped: bool = False
    license: str = ""

    @property
    def file(self) -> str:
        """The source's name in `IMGMETRICS_WEIGHTS`, or in a folder of copies."""
        return self.source.rpartition("/")[2]


@dataclass(frozen=True)
class Template:
    """A prompt text in which `{name}` is a placeholder for each name of `slots`, and any other brace is text.

    `origin` is the first eight digits of its card's sha256, or "generic"; it belongs in signatures as `template`.
    """

    text: str
    origin: str
    slots: tuple[str, ...] = ()

    def fill(self, /, **values: str) -> str:
        """The text with each placeholder replaced by its value, taken literally whatever braces it has.

        In a generic wording, what stands between tags named like its placeholder cannot close them: see `inert`.
        TypeError unless `values` are texts for exactly the `slots`.
        """
        if values.keys() != set(self.slots):
            raise TypeError(f"`values` must fill the placeholders {list(self.slots)}, got {list(values)}")
        for name, value in values.items():
            if not isinstance(value, str):
                raise TypeError(f"`{name}` must be a text, got {value!r}")
            if self.origin == "generic" and f"</{name}>" in self.text:
                values[name] = inert(value, name)
        return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), self.text)


def find_template(card: TemplateCard, path: str | Path | None = None) -> Template:
    """The text of `card`, verified; offline, and nowhere on this machine, its generic wording with a UserWarning.

    Looked for in this order: `path` (a copy of the source, or a folder that has it as `card.file`),
    `IMGMETRICS_WEIGHTS`, `IMGMETRICS_CACHE`, download. The source is read and not run. What was downloaded is kept in
    the cache, so one process per file system asks for it. Raises MissingWeights (`path` does not have it, or the
    download failed: were that a reason to fall back, ranks could score with unlike wordings) and WeightsMismatch (a
    file does not hold the text).
    """
    shelf = os.environ.get("IMGMETRICS_WEIGHTS")
    cache = cache_folder("templates") / f"{hashlib.sha256(card.source.encode()).hexdigest()[:8]}-{card.file}"
    places = [_named(card, path)] if path is not None else [*([Path(shelf) / card.file] if shelf else []), cache]
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
        return Template(card.generic, "generic", card.slots)
    try:
        _download(card, cache)
    except (OSError, HTTPException) as error:
        raise MissingWeights(
            f"the prompt {card.name} is not on this machine and cannot be downloaded ({error!r}). Fetch {fetch}, or"
            " pass its path as `template`; or set IMGMETRICS_OFFLINE=1 on all ranks to score with a wording of this"
            " package"
        ) from error
    return _read(card, cache.read_bytes(), str(cache))


def _named(card: TemplateCard, path: str | Path) -> Path:
    """The file that `path` is, or that a folder of sources has."""
    given = Path(path).expanduser()
    found = given / card.file if given.is_dir() else given
    if not found.is_file():
        raise MissingWeights(
            f"`path` for {card.name} must be an existing file, or a folder with {card.file}, got {str(path)!r}"
        )
    return found


def _download(card: TemplateCard, cache: Path) -> None:
    """Put the source into `cache`, unless another process does; one that waited for another's failure tries no more."""
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
            content = response.read()
        _read(card, content, card.source)
        write_atomically(cache, lambda temporary: temporary.write_bytes(content))
    finally:
        lock.release()


def _read(card: TemplateCard, content: bytes, place: str) -> Template:
    """The text of `card` in the file or download `place`; WeightsMismatch if it is not there."""
    try:
        source = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise WeightsMismatch(f"{place} is not UTF-8, as the source of {card.name} is: {error}") from error
    symbols = (card.symbol,) if isinstance(card.symbol, str) else card.symbol
    constant, text = read_texts(source, symbols, card.slots, place)
    digest = hashlib.sha256(constant.encode("utf-8", "surrogatepass")).hexdigest()
    if len(constant) != card.length or not digest.startswith(card.sha256):
        raise WeightsMismatch(
            f"{place} does not hold the prompt {card.name}: expected {card.length} characters whose sha256 begins with"
            f" {card.sha256}, found {len(constant)} characters with {digest}"
        )
    for slot in card.slots:
        text = text.replace(f"<{slot}>", f"{{{slot}}}")
        if f"{{{slot}}}" not in text:  # the digest does not see what a field is called
            raise WeightsMismatch(f"{place} has no placeholder {slot!r} in the prompt {card.name}")
    if card.escaped:
        text = text.replace("{{", "{").replace("}}", "}")
    return Template(text, digest[:8], card.slots)


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
    ("text_prompt",),
    license="Apache-2.0",
)

HPSV3_SUFFIX = TemplateCard(
    "hpsv3-suffix",
    _HPSV3_SOURCE,
    "HPSV3_PROMPT_WITH_SPECIAL_TOKEN",
    "2471faca094ae5bd6fe17b71dce20c3d7583625545e235889f7e74e7eeb69d0a",
    67,
    "\nThe number that this picture deserves: <|Reward|>",
    license="Apache-2.0",
)
