"""Judges on a server that speaks OpenAI's chat completions: vLLM, SGLang, OpenAI and others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import torch

from lightning_imgmetrics.errors import JudgeFailed, JudgeUnavailable, UnknownName
from lightning_imgmetrics.judges.backends.base import Answer, Decoding, Judge, Question
from lightning_imgmetrics.judges.backends.chat import IMAGE_FORMATS, chat_messages
from lightning_imgmetrics.judges.backends.client import Line, NoAnswer, line_to

_UNLISTED = 0.01  # the probability that unlisted tokens may share for one of them to count as 0


@dataclass(frozen=True)
class ServerJudge(Judge):
    """A model on an OpenAI-compatible server; `url` is its base, as http://localhost:8000/v1.

    `revision` is what the caller says is served: answers are remembered by it and by `model`, whatever the `url`, as a
    resumed job has another one. Without it the host counts, too, and the port does not. `api_key`: or OPENAI_API_KEY. A
    request may take `timeout` seconds and is tried `max_tries` times. `image_format`: "png", or "jpeg" at quality 95,
    as UnifiedReward's client sends. `max_cost`: what replies to this process may cost by `price`, (input, output) per
    million tokens; once it is spent, only what is under way is answered. Probabilities are read off the `top_logprobs`
    likeliest tokens. What `Decoding` does not say is the server's choice: vLLM follows the checkpoint's habits unless
    started with `--generation-config vllm`.
    """

    model: str
    url: str
    revision: str = field(default="", kw_only=True)
    api_key: str | None = field(default=None, kw_only=True, repr=False, compare=False)
    concurrency: int = field(default=8, kw_only=True)
    timeout: float = field(default=120.0, kw_only=True)
    max_tries: int = field(default=6, kw_only=True)
    image_format: str = field(default="png", kw_only=True)
    top_logprobs: int = field(default=20, kw_only=True)
    max_cost: float | None = field(default=None, kw_only=True)
    price: tuple[float, float] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "url", _checked_url(self.url))
        if not self.model:
            raise ValueError("`model` must be the name under which the server serves it, got ''")
        if self.image_format not in IMAGE_FORMATS:
            raise UnknownName("image_format", self.image_format, IMAGE_FORMATS)
        if not 0 < self.timeout < math.inf or self.max_tries < 1 or self.top_logprobs < 1:
            raise ValueError(
                "`timeout` must be above 0 and finite, `max_tries` and `top_logprobs` at least 1, got"
                f" {self.timeout}, {self.max_tries} and {self.top_logprobs}"
            )
        self._check_cost()

    def _check_cost(self) -> None:
        if self.price is not None:
            price = tuple(map(float, self.price))
            if len(price) != 2 or not all(math.isfinite(p) and p >= 0 for p in price):
                raise ValueError(f"`price` must be (input, output) per million tokens, got {self.price}")
            object.__setattr__(self, "price", price)
        if self.max_cost is not None and (self.price is None or not self.max_cost > 0):
            raise ValueError(
                f"`max_cost` must be above 0 and needs a `price`, got {self.max_cost} and price {self.price}"
            )

    def identity(self) -> Mapping[str, object]:
        how = {"image_format": self.image_format, "top_logprobs": self.top_logprobs}
        served = {"revision": self.revision} if self.revision else {"host": urlsplit(self.url).hostname}
        return {"server": self.model, **served, **how}

    def signature(self) -> dict[str, str]:
        listed = {} if self.top_logprobs == 20 else {"top_logprobs": str(self.top_logprobs)}
        weights = self.revision or "as served"
        return {"network": self.model, "weights": weights, "images": self.image_format, **listed}

    def usage(self) -> dict[str, float]:
        """What this process had of the model: replies (`requests`; `uncounted`: those without a count of tokens), their
        `input_tokens` and `output_tokens`, and with `price`, their `cost`."""
        return self._usage(line_to(self.url, self.model, self.api_key))

    def reply(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        line = line_to(self.url, self.model, self.api_key)
        answers = []
        for question in questions:
            try:
                answers.append(self._answered(line, question, decoding))
            except NoAnswer as error:
                answers.append(Answer(problem=str(error), given=error.given))
        return answers

    def _answered(self, line: Line, question: Question, decoding: Decoding) -> Answer:
        if question.answer is not None and question.scoring != "product":
            raise UnknownName("scoring", question.scoring, ("product",))
        self._check_budget(line)
        max_tokens = decoding.max_tokens if question.answer is None else 1
        request = self._request(question, decoding)
        try:
            choice = line.post(request, max_tokens, tries=self.max_tries, timeout=self.timeout)
        except NoAnswer as error:
            if question.answer is not None and "logprobs" in str(error):  # the parameters that it does not take
                raise NoAnswer(f"the server gives no logprobs: {error}") from None
            raise
        return _text(choice, max_tokens) if question.answer is None else _chance(choice, question.answer)

    def _request(self, question: Question, decoding: Decoding) -> dict[str, Any]:
        how: dict[str, Any] = {"model": self.model, "temperature": 0.0}
        extra: dict[str, Any] = {}
        if question.answer is not None:
            how |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        elif decoding.temperature:
            how |= {"temperature": decoding.temperature, "top_p": 1.0, "seed": decoding.seed}
        if question.answer is None and decoding.repetition_penalty != 1:
            extra["repetition_penalty"] = decoding.repetition_penalty
        if decoding.thinking is not None:
            extra["chat_template_kwargs"] = {"enable_thinking": decoding.thinking}
        return {**how, "messages": chat_messages(question, self.image_format), "extra_body": extra or None}

    def _check_budget(self, line: Line) -> None:
        if self.max_cost is None:
            return
        used = self._usage(line)
        if used["uncounted"]:
            raise JudgeFailed(f"`max_cost` cannot be kept: the server at {self.url} does not count tokens")
        if used["cost"] >= self.max_cost:
            raise JudgeUnavailable(f"`max_cost` of {self.max_cost:g} is spent, on {used['requests']} requests")

    def _usage(self, line: Line) -> dict[str, float]:
        used = dict[str, float](line.used())
        if self.price is not None:
            used["cost"] = (used["input_tokens"] * self.price[0] + used["output_tokens"] * self.price[1]) / 1e6
        return used


def _spoken(choice: Mapping[str, Any]) -> str:
    """What the model says, after any thinking; NoAnswer where it declines to."""
    message = choice["message"]
    if message.get("refusal") or choice.get("finish_reason") == "content_filter":
        raise NoAnswer(f"refused: {str(message.get('refusal') or 'by the content filter')[:300]}", given=True)
    content = message.get("content") or ""
    if not isinstance(content, str):
        raise NoAnswer(f"the answer is no text: {str(content)[:300]}", given=True)
    return content.strip()


def _text(choice: Mapping[str, Any], max_tokens: int) -> Answer:
    text = _spoken(choice)
    if choice.get("finish_reason") == "length":
        raise NoAnswer(f"cut off after {max_tokens} tokens", given=True)
    if not text:
        raise NoAnswer("empty answer", given=True)
    return Answer(text)


def _chance(choice: Mapping[str, Any], answer: str) -> Answer:
    """The probability of the first tokens that read exactly `answer`: " Yes" is another.

    Where none is listed, it is 0 if all that is not listed comes to less than 0.01 together with the tokens that
    `answer` might begin with; otherwise there is none.
    """
    text = _spoken(choice)
    try:
        first = choice["logprobs"]["content"][0]
        token = str(first["token"])
        listed = [(str(t["token"]), math.exp(t["logprob"])) for t in first["top_logprobs"]]
    except (LookupError, TypeError):
        raise NoAnswer("the server gives no logprobs") from None
    if not listed or not 0 <= sum(p for _, p in listed) <= 1.01:
        raise NoAnswer("the server's logprobs are no probabilities")
    if _thinks(choice["message"]) or token.startswith("<think"):
        raise NoAnswer("the model thinks before it answers, unless `thinking=False` keeps it from that", given=True)
    chances = [p for t, p in listed if t == answer]
    if chances:
        return Answer(probability=min(sum(chances), 1.0))
    if token.strip() != text:  # tokens may be written in another way than texts: nothing says that `answer` is absent
        raise NoAnswer(f"the server says {text!r} where its first token is {token!r}", given=True)
    beginnings = sum(p for t, p in listed if answer.startswith(t))
    rest = max(1 - sum(p for _, p in listed), 0.0) + beginnings
    if rest >= _UNLISTED:
        told = f"{answer!r} is not among the {len(listed)} likeliest tokens, which leave it up to {rest:.2g}"
        raise NoAnswer(told, given=True)
    return Answer(probability=0.0)


def _thinks(message: Mapping[str, Any]) -> bool:
    return bool(message.get("reasoning_content") or message.get("reasoning"))


def _checked_url(url: str) -> str:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of a port that is no number, say
        good = False
    if good and "@" in parts.netloc:
        raise ValueError("`url` must not hold a password: give it as `api_key`")
    if not good:
        raise ValueError(f"`url` must be http://HOST... or https://HOST..., got {url!r}")
    return url.rstrip("/")
