"""Judges: models that answer questions about images. Answers are cached, so that nothing is asked twice."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lightning_imgmetrics.errors import JudgeUnavailable
from lightning_imgmetrics.judges.backends.answer_cache import load_answer, question_keys, store_answer
from lightning_imgmetrics.judges.backends.question import IMAGE, Answer, Decoding, Message, Question, turn
from lightning_imgmetrics.judges.backends.threads import in_threads
from lightning_imgmetrics.models.base.network import Network, run_in_batches


@dataclass(frozen=True, kw_only=True)
class Judge(ABC):
    """A model that answers questions about images. Subclass it and define `reply` to bring your own.

    Args:
        cache: Keep answers on disk, below `IMGMETRICS_CACHE`, under a digest of the question, the decoding and
            `identity`: a run that was killed asks only for the rest.

    Raises:
        ValueError: `batch_size` or `concurrency`, where a subclass has them as fields, is below 1.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import IMAGE, Answer, Judge, turn
        >>> class Brightness(Judge):
        ...     def reply(self, questions, decoding, device):
        ...         return [Answer("bright" if q.images[0].float().mean() > 127 else "dark") for q in questions]
        >>> white = torch.full((3, 8, 8), 255, dtype=torch.uint8)
        >>> Brightness().answer([[white]], [[turn(IMAGE, "Is it bright or dark?")]])
        ['bright']
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
        """Answer questions; this is what a subclass defines.

        Args:
            questions: At most `batch_size`, none of which is in the cache.
            decoding: How the answers are generated.
            device: Where a network that the judge runs is to run.

        Returns:
            One answer per question; a question that cannot be answered has a `problem`.

        Raises:
            JudgeUnavailable: No further question can be answered either.
        """

    def identity(self) -> Mapping[str, object] | None:
        """What distinguishes this judge's answers from those of all others in the cache; None keeps them out of it."""
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
        decoding: Decoding | None = None,
        device: torch.device | str = "cpu",
    ) -> list[str | None]:
        """Texts (n) for n conversations over uint8 images (3, h, w); None where there is no answer."""
        questions = [Question(tuple(i), tuple(m)) for i, m in zip(images, messages, strict=True)]
        return [answer.text for answer in self.ask(questions, decoding or Decoding(), torch.device(device))]

    def probability(
        self,
        images: Sequence[Sequence[Tensor]],
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        device: torch.device | str = "cpu",
    ) -> list[float | None]:
        """The probability that the judge gives answers[i] to questions[i] about images[i]; None where it has none."""
        conversations = [
            Question(tuple(some), (turn(*[IMAGE] * len(some), question),), answer)
            for some, question, answer in zip(images, questions, answers, strict=True)
        ]
        return [answer.probability for answer in self.ask(conversations, Decoding(), torch.device(device))]

    def ask(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        """One answer per question: from the cache, or else from `reply`, to which equal questions are put once."""
        self.ready(device)
        identity = self.identity()
        cached = self.cache and identity is not None
        keys = question_keys(questions, decoding, identity)
        answers = {key: answer for key in dict.fromkeys(keys) if cached and (answer := load_answer(key))}
        pending = list({key: q for key, q in zip(keys, questions, strict=True) if key not in answers}.items())
        lock = threading.Lock()  # the mode of a file depends on the umask, which belongs to the whole process

        def run(part: slice) -> None:
            replies = self._checked_reply([question for _, question in pending[part]], decoding, device)
            with lock:
                for (key, _), answer in zip(pending[part], replies, strict=True):
                    answers[key] = answer
                    if cached and not answer.problem:
                        store_answer(key, answer)

        try:
            self._in_batches(run, len(pending))
        except JudgeUnavailable as error:
            answers |= {key: Answer(problem=str(error)) for key, _ in pending if key not in answers}
        return [answers[key] for key in keys]

    def _checked_reply(self, questions: list[Question], decoding: Decoding, device: torch.device) -> Sequence[Answer]:
        answers = self.reply(questions, decoding, device)
        if len(answers) != len(questions) or not all(isinstance(answer, Answer) for answer in answers):
            raise TypeError(f"{type(self).__name__}.reply must return one Answer per question, got {answers!r:.200}")
        return answers

    def _in_batches(self, run: Callable[[slice], None], n: int) -> None:
        if self.concurrency == 1:
            run_in_batches(run, n, self.batch_size)
        else:
            in_threads(run, [slice(i, i + self.batch_size) for i in range(0, n, self.batch_size)], self.concurrency)
