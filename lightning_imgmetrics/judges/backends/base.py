"""Judges: multimodal models that look at images and answer; what they said is kept, so that nothing is asked twice."""

from __future__ import annotations

import hashlib
import json
import threading
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_imgmetrics._files import cache_folder, write_atomically
from lightning_imgmetrics.errors import JudgeUnavailable, ShapeError
from lightning_imgmetrics.judges.backends.threads import in_threads
from lightning_imgmetrics.models.base.network import Network, in_parts

Message = Mapping[str, Any]  # {"role": ..., "content": [{"type": "image"} | {"type": "text", "text": ...}]}
IMAGE: Message = {"type": "image"}  # a place that the next image of the question takes


def turn(*parts: str | Message, role: str = "user") -> Message:
    """One message of texts and `IMAGE`s, in order."""
    return {"role": role, "content": [{"type": "text", "text": p} if isinstance(p, str) else dict(p) for p in parts]}


@dataclass(frozen=True)
class Decoding:
    """How an answer is drawn: greedily, or at a `temperature` above 0 with a `seed` of its own.

    `thinking` is handed to chat templates that ask (`enable_thinking`); None leaves it to them.
    """

    max_tokens: int = 1024
    temperature: float = 0.0
    seed: int = 0
    repetition_penalty: float = 1.0
    thinking: bool | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise ValueError(f"`max_tokens` must be at least 1, got {self.max_tokens}")
        if not (self.temperature >= 0 and self.repetition_penalty > 0):
            raise ValueError(
                "`temperature` must be at least 0 and `repetition_penalty` above 0, got"
                f" {self.temperature} and {self.repetition_penalty}"
            )


@dataclass(frozen=True, eq=False)
class Question:
    """A conversation over images, each uint8 (3, h, w); with `answer`, asked for the probability of that text.

    `scoring` says which probability: "product" of the answer's tokens, or "mean", the geometric mean over them and the
    end of the answer, as VQAScore's first models are used.
    """

    images: tuple[Tensor, ...]
    messages: tuple[Message, ...]
    answer: str | None = None
    scoring: str = "product"

    def __post_init__(self) -> None:
        places = sum(part == IMAGE for message in self.messages for part in message["content"])
        if places != len(self.images):
            raise ShapeError(f"`messages` must have one place per image, got {places} for {len(self.images)} images")


@dataclass(frozen=True)
class Answer:
    """A text, or a probability in [0, 1]; where there is none, `problem` says why.

    `given`: something was answered, though nothing that can be used: cut off, refused, empty.
    """

    text: str | None = None
    probability: float | None = None
    problem: str = ""
    given: bool = False


@dataclass(frozen=True, kw_only=True)
class Judge(ABC):
    """A model that answers questions about images. Subclass it, and define `reply`, to bring your own.

    `cache`: keep answers on disk, below `IMGMETRICS_CACHE`, under a digest of images, messages, decoding and
    `identity`; a run that was killed asks for the rest.
    """

    cache: bool = True

    # A subclass in which these are fields lets its user choose.
    batch_size = 1  # questions of one `reply`
    concurrency = 1  # calls of `reply` at a time

    # What a metric may rely on; the defaults hold for a judge of which nothing more is known.
    can_refuse = True  # its text may be a refusal
    ignores_thinking = False  # `Decoding.thinking` does no harm where the model does not know it

    def __post_init__(self) -> None:
        for name in ("batch_size", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}")

    @abstractmethod
    def reply(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> Sequence[Answer]:
        """One answer per question; a question that cannot be answered has a `problem`. JudgeUnavailable: nobody can."""

    def identity(self) -> Mapping[str, object] | None:
        """What tells this judge's answers from those of all others; None keeps them off the disk."""
        return None

    def ready(self, device: torch.device) -> None:  # noqa: B027 (most judges have nothing to do)
        """Do what `identity` depends on."""

    def signature(self) -> dict[str, str]:
        """What the signature of a metric says about this judge."""
        return {"network": type(self).__name__}

    def model_types(self) -> tuple[str, str]:
        """`model_type` of the model and of its language model, as their configurations have them; "" where unknown."""
        return "", ""

    @property
    def networks(self) -> tuple[Network, ...]:
        """The networks that this judge runs in this process, which can be loaded ahead and offloaded."""
        return ()

    def __deepcopy__(self, memo: dict[int, Any]) -> Judge:
        return self  # a copy of a metric asks the same judge

    def answer(
        self,
        images: Sequence[Sequence[Tensor]],
        messages: Sequence[Sequence[Message]],
        *,
        decoding: Decoding = Decoding(),
        device: torch.device | str = "cpu",
    ) -> list[str | None]:
        """Texts (n) for n conversations over uint8 images (3, h, w); None where there is no answer."""
        asked = [Question(tuple(i), tuple(m)) for i, m in zip(images, messages, strict=True)]
        return [answer.text for answer in self.ask(asked, decoding, torch.device(device))]

    def probability(
        self,
        images: Sequence[Sequence[Tensor]],
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        device: torch.device | str = "cpu",
    ) -> list[float | None]:
        """The probability that the judge, shown image i and question i, answers i; None where it cannot tell."""
        asked = [
            Question(tuple(shown), (turn(*[IMAGE] * len(shown), question),), answer)
            for shown, question, answer in zip(images, questions, answers, strict=True)
        ]
        return [answer.probability for answer in self.ask(asked, Decoding(), torch.device(device))]

    def ask(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        """The answers (n), in order: remembered ones, and those that `reply` gives to the rest, each asked once."""
        self.ready(device)
        identity = self.identity()
        keys = _keys(questions, decoding, identity)
        kept = self.cache and identity is not None
        found = {key: answer for key in dict.fromkeys(keys) if kept and (answer := _recalled(key))}
        todo = {key: q for key, q in zip(keys, questions, strict=True) if key not in found}
        lock = threading.Lock()  # files take their mode from the umask, which is one of the whole process

        def done(answered: Iterable[tuple[str, Answer]]) -> None:
            with lock:
                for key, answer in answered:
                    found[key] = answer
                    if kept and not answer.problem:
                        _keep_if_possible(key, answer)

        try:
            self._work(list(todo.items()), lambda part: self.reply(part, decoding, device), done)
        except JudgeUnavailable as error:
            found |= {key: Answer(problem=str(error)) for key in todo if key not in found}
        return [found[key] for key in keys]

    def _work(
        self,
        todo: list[tuple[str, Question]],
        reply: Callable[[list[Question]], Sequence[Answer]],
        done: Callable[[Iterable[tuple[str, Answer]]], None],
    ) -> None:
        def run(part: slice) -> None:
            answers = reply([question for _, question in todo[part]])
            if len(answers) != len(todo[part]) or not all(isinstance(answer, Answer) for answer in answers):
                told = f"{answers!r}"[:200]
                raise TypeError(f"{type(self).__name__}.reply must return one Answer per question, got {told}")
            done([(key, answer) for (key, _), answer in zip(todo[part], answers, strict=True)])

        if self.concurrency == 1:
            in_parts(run, len(todo), self.batch_size)
        else:
            parts = [slice(i, i + self.batch_size) for i in range(0, len(todo), self.batch_size)]
            in_threads(run, parts, self.concurrency)


def _keys(questions: Sequence[Question], decoding: Decoding, identity: Mapping[str, object] | None) -> list[str]:
    digests: dict[int, str] = {}

    def digest(image: Tensor) -> str:
        if id(image) not in digests:
            content = image.contiguous().cpu().numpy().tobytes()
            digests[id(image)] = hashlib.sha256(f"{tuple(image.shape)}".encode() + content).hexdigest()
        return digests[id(image)]

    how = {"judge": identity, "decoding": asdict(decoding)}
    keys = []
    for q in questions:
        asked = {"images": [digest(x) for x in q.images], "messages": q.messages, "answer": q.answer}
        told = json.dumps({**how, **asked, "scoring": q.scoring}, sort_keys=True, default=str)
        keys.append(hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest())
    return keys


def _place(key: str) -> Path:
    return cache_folder("answers") / key[:2] / f"{key}.json"


def _recalled(key: str) -> Answer | None:
    try:
        return Answer(**json.loads(_place(key).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):  # not there, or not whole
        return None


def _keep_if_possible(key: str, answer: Answer) -> None:
    """A full disk must not end a training run, nor lose what was paid for."""
    try:
        _keep(key, answer)
    except OSError as error:
        warnings.warn(f"answers of judges cannot be kept, they will be asked for again: {error}", stacklevel=2)


def _keep(key: str, answer: Answer) -> None:
    place = _place(key)
    place.parent.mkdir(parents=True, exist_ok=True)
    told = json.dumps({"text": answer.text, "probability": answer.probability})
    write_atomically(place, lambda temporary: temporary.write_text(told, encoding="utf-8"))
