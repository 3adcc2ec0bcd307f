"""Judges on a server with OpenAI's chat completions API: vLLM, SGLang, OpenAI and others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import torch

from lightning_imgmetrics.errors import JudgeFailed, JudgeUnavailable, UnknownName
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.chat import IMAGE_FORMATS, chat_messages
from lightning_imgmetrics.judges.backends.client import NoAnswer, ServerClient, client_of
from lightning_imgmetrics.judges.backends.question import Answer, Decoding, Question

_UNLISTED = 0.01  # the probability that unlisted tokens may share for one of them to count as 0


@dataclass(frozen=True)
class ServerJudge(Judge):
    """A model on an OpenAI-compatible server, asked over HTTP by several threads at a time.

    Probabilities are read from the log-probabilities of the first token, which the server must give. What `Decoding`
    does not name is left to the server: vLLM follows the checkpoint's defaults unless it is started with
    `--generation-config vllm`.

    Args:
        model: The name under which the server serves the model.
        url: Base of the API, such as http://localhost:8000/v1.
        revision: What the caller knows to be served. Answers are cached under it and `model`, whatever the `url`, as a
            resumed job may find the server elsewhere; without it, under `model` and the host.
        api_key: Default: the environment variable OPENAI_API_KEY.
        concurrency: Requests at a time.
        timeout: Seconds that a request may take.
        max_tries: How often a request is sent before its question has no answer.
        image_format: "png" is lossless; "jpeg", at quality 95, is what UnifiedReward's client sends.
        top_logprobs: How many of the likeliest tokens the server lists.
        max_cost: What the replies to this process may cost; once it is spent, only requests under way are answered.
        price: (input, output) per million tokens, in the currency of `max_cost`.
        cache: Keep answers on disk (see `Judge`).

    Raises:
        ValueError: An argument is out of its range, or `url` is no URL or holds a password.
        UnknownName: `image_format` is neither "png" nor "jpeg".

    Example:
        >>> from lightning_imgmetrics import ServerJudge
        >>> judge = ServerJudge("Qwen/Qwen3-VL-8B-Instruct", "http://localhost:8000/v1/", revision="main")
        >>> judge.url, judge.signature()["weights"]
        ('http://localhost:8000/v1', 'main')
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
        place = {"revision": self.revision} if self.revision else {"host": urlsplit(self.url).hostname}
        request = {"image_format": self.image_format, "top_logprobs": self.top_logprobs}
        return {"server": self.model, **place, **request}

    def signature(self) -> dict[str, str]:
        listed = {} if self.top_logprobs == 20 else {"top_logprobs": str(self.top_logprobs)}
        weights = self.revision or "as served"
        return {"network": self.model, "weights": weights, "images": self.image_format, **listed}

    def usage(self) -> dict[str, float]:
        """What this process used: `requests` that were answered, `uncounted` ones among them (without a count of
        tokens), `input_tokens`, `output_tokens`, and with `price`, the `cost`."""
        return self._usage(client_of(self.url, self.model, self.api_key))

    def reply(self, questions: Sequence[Question], decoding: Decoding, device: torch.device) -> list[Answer]:
        client = client_of(self.url, self.model, self.api_key)
        answers = []
        for question in questions:
            try:
                answers.append(self._answer(client, question, decoding))
            except NoAnswer as error:
                answers.append(Answer(problem=str(error), answered=error.answered))
        return answers

    def _answer(self, client: ServerClient, question: Question, decoding: Decoding) -> Answer:
        if question.answer is not None and question.scoring != "product":
            raise UnknownName("scoring", question.scoring, ("product",))
        self._check_budget(client)
        max_tokens = decoding.max_tokens if question.answer is None else 1
        request = self._request(question, decoding)
        try:
            choice = client.post(request, max_tokens, tries=self.max_tries, timeout=self.timeout)
        except NoAnswer as error:
            if question.answer is not None and "logprobs" in str(error):  # it does not know the parameter
                raise NoAnswer(f"the server gives no logprobs: {error}") from None
            raise
        return _text(choice, max_tokens) if question.answer is None else _probability(choice, question.answer)

    def _request(self, question: Question, decoding: Decoding) -> dict[str, Any]:
        options: dict[str, Any] = {"model": self.model, "temperature": 0.0}
        extra: dict[str, Any] = {}
        if question.answer is not None:
            options |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        elif decoding.temperature:
            options |= {"temperature": decoding.temperature, "top_p": 1.0, "seed": decoding.seed}
        if question.answer is None and decoding.repetition_penalty != 1:
            extra["repetition_penalty"] = decoding.repetition_penalty
        if decoding.thinking is not None:
            extra["chat_template_kwargs"] = {"enable_thinking": decoding.thinking}
        return {**options, "messages": chat_messages(question, self.image_format), "extra_body": extra or None}

    def _check_budget(self, client: ServerClient) -> None:
        if self.max_cost is None:
            return
        usage = self._usage(client)
        if usage["uncounted"]:
            raise JudgeFailed(f"`max_cost` cannot be kept: the server at {self.url} does not count tokens")
        if usage["cost"] >= self.max_cost:
            raise JudgeUnavailable(f"`max_cost` of {self.max_cost:g} is spent, on {usage['requests']} requests")

    def _usage(self, client: ServerClient) -> dict[str, float]:
        usage = dict[str, float](client.usage())
        if self.price is not None:
            usage["cost"] = (usage["input_tokens"] * self.price[0] + usage["output_tokens"] * self.price[1]) / 1e6
        return usage


def _final_text(choice: Mapping[str, Any]) -> str:
    """The text of the answer, without reasoning; NoAnswer where the model or its filter refuses."""
    message = choice["message"]
    if message.get("refusal") or choice.get("finish_reason") == "content_filter":
        raise NoAnswer(f"refused: {str(message.get('refusal') or 'by the content filter')[:300]}", answered=True)
    content = message.get("content") or ""
    if not isinstance(content, str):
        raise NoAnswer(f"the answer is no text: {str(content)[:300]}", answered=True)
    return content.strip()


def _text(choice: Mapping[str, Any], max_tokens: int) -> Answer:
    text = _final_text(choice)
    if choice.get("finish_reason") == "length":
        raise NoAnswer(f"cut off after {max_tokens} tokens", answered=True)
    if not text:
        raise NoAnswer("empty answer", answered=True)
    return Answer(text)


def _probability(choice: Mapping[str, Any], answer: str) -> Answer:
    """The probability of the first tokens that read exactly `answer`: " Yes" is another.

    Where none is listed, it is 0 if all that is not listed comes to less than 0.01 together with the tokens that
    `answer` might begin with; otherwise there is none.
    """
    text = _final_text(choice)
    try:
        first = choice["logprobs"]["content"][0]
        token = str(first["token"])
        listed = [(str(t["token"]), math.exp(t["logprob"])) for t in first["top_logprobs"]]
    except (LookupError, TypeError):
        raise NoAnswer("the server gives no logprobs") from None
    if not listed or not 0 <= sum(p for _, p in listed) <= 1.01:
        raise NoAnswer("the server's logprobs are no probabilities")
    if _thinks(choice["message"]) or token.startswith("<think"):
        raise NoAnswer("the model thinks before it answers, unless `thinking=False` keeps it from that", answered=True)
    matches = [p for t, p in listed if t == answer]
    if matches:
        return Answer(probability=min(sum(matches), 1.0))
    if token.strip() != text:  # tokens may be written in another way than texts: nothing says that `answer` is absent
        raise NoAnswer(f"the server says {text!r} where its first token is {token!r}", answered=True)
    prefixes = sum(p for t, p in listed if answer.startswith(t))
    rest = max(1 - sum(p for _, p in listed), 0.0) + prefixes
    if rest >= _UNLISTED:
        problem = f"{answer!r} is not among the {len(listed)} likeliest tokens, which leave it up to {rest:.2g}"
        raise NoAnswer(problem, answered=True)
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
