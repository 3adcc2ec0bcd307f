"""The client of an OpenAI-compatible server: one per process, its retries, and what the replies used."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from lightning_imgmetrics._compat.openai import connection_failure
from lightning_imgmetrics.errors import JudgeFailed, JudgeUnavailable, require

NO_KEY = "none"  # the client insists on one
_CONNECT = 10.0  # seconds
_PAUSE = 30.0  # seconds for which a server that could not be reached is not tried again
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0  # seconds between tries, doubling: the defaults of openai's client


class NoAnswer(Exception):
    """A question has no usable answer, and why; `answered`: there was one, but it cannot be used."""

    def __init__(self, problem: str, *, answered: bool = False):
        super().__init__(problem)
        self.answered = answered


class ServerClient:
    """What all judges of one process share that ask one model on one server with one key."""

    def __init__(self, url: str, model: str, api_key: str):
        self.openai = require("openai", "judge")
        self.client = self.openai.OpenAI(base_url=url, api_key=api_key)
        self.url, self.model, self.api_key = url, model, api_key
        self.limit = "max_tokens"
        self.lock = threading.Lock()
        self.requests = self.uncounted = self.input_tokens = self.output_tokens = 0
        self.unavailable_until, self.trouble = 0.0, ""

    def post(self, request: Mapping[str, Any], max_tokens: int, *, tries: int, timeout: float) -> dict[str, Any]:
        """The choice that answers a request, {"message": {...}, ...}.

        Raises:
            NoAnswer: There is none.
            JudgeFailed: The key or the model is not accepted.
            JudgeUnavailable: Nobody listens, the quota is spent, or what was accepted before no longer is.
        """
        if time.monotonic() < self.unavailable_until:
            raise JudgeUnavailable(self.trouble)
        done = 0
        while True:
            limit = self.limit
            try:
                raw = self._send({**request, limit: max_tokens}, tries - done, timeout)
            except self.openai.APIError as error:
                if limit == "max_tokens" and "max_completion_tokens" in error.message:  # the name in newer models
                    self.limit = "max_completion_tokens"
                    continue
                failure = self._failure(error, tries, timeout)
                if isinstance(failure, JudgeUnavailable):
                    self.unavailable_until, self.trouble = time.monotonic() + _PAUSE, str(failure)
                raise failure from None  # its text may contain the key
            done += raw.retries_taken + 1
            try:
                return self._choice(raw.content)
            except (ValueError, LookupError, TypeError, AttributeError):
                if done >= tries:
                    content = self._redacted(raw.content.decode("utf-8", "replace"))
                    raise NoAnswer(f"the reply is no chat completion, after {tries} tries: {content!r}") from None
            time.sleep(min(_FIRST_WAIT * 2 ** (done - 1), _LONGEST_WAIT))

    def usage(self) -> dict[str, int]:
        """Replies so far, and the tokens that the server counted for them."""
        with self.lock:
            return {k: getattr(self, k) for k in ("requests", "uncounted", "input_tokens", "output_tokens")}

    def _send(self, request: Mapping[str, Any], tries: int, timeout: float) -> Any:
        limits = self.openai.Timeout(timeout, connect=min(timeout, _CONNECT))
        client = self.client.with_options(max_retries=tries - 1, timeout=limits)
        return client.chat.completions.with_raw_response.create(**request)

    def _choice(self, content: bytes) -> dict[str, Any]:
        reply = json.loads(content)
        choice = {**reply["choices"][0], "message": dict(reply["choices"][0]["message"])}
        usage = reply.get("usage") or {}
        tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        with self.lock:
            self.requests += 1
            self.uncounted += not usage
            self.input_tokens += tokens[0]
            self.output_tokens += tokens[1]
        return choice

    def _failure(self, error: Any, tries: int, timeout: float) -> Exception:
        """What an error of the client means for the question, or for all of them."""
        if isinstance(error, self.openai.APIStatusError):
            return self._refusal(error, tries)
        unreachable, cause = connection_failure(error)
        reason = self._redacted(cause)
        if unreachable:
            return JudgeUnavailable(f"there is no server at {self.url}: {reason}")
        if isinstance(error, self.openai.APITimeoutError):
            return NoAnswer(f"no reply within {timeout:g} s, {tries} times")
        return NoAnswer(f"the connection broke, {tries} times: {reason}")

    def _refusal(self, error: Any, tries: int) -> Exception:
        code = error.status_code
        message = f"HTTP {code}: {self._redacted(_message(error))}"
        if code in (401, 403, 404):
            rejected = f"the server at {self.url} does not serve {self.model!r} to this key: {message}"
            return JudgeUnavailable(rejected) if self.requests else JudgeFailed(rejected)
        if error.code == "insufficient_quota":
            return JudgeUnavailable(f"the server at {self.url} reports insufficient quota: {message}")
        return NoAnswer(message + (f" (after {tries} tries)" if code in (408, 409, 429) or code >= 500 else ""))

    def _redacted(self, text: str) -> str:
        """At most 300 characters on one line, without the key."""
        text = text if self.api_key == NO_KEY else text.replace(self.api_key, "...")
        return " ".join(text.split())[:300]


_CLIENTS: dict[tuple[int, str, str, str], ServerClient] = {}


def client_of(url: str, model: str, api_key: str | None) -> ServerClient:
    """The client of this process; a fork has its own. Without `api_key`, that of OPENAI_API_KEY."""
    api_key = (api_key or os.environ.get("OPENAI_API_KEY") or NO_KEY).strip()
    key = os.getpid(), url, model, api_key
    if key not in _CLIENTS:
        _CLIENTS.setdefault(key, ServerClient(url, model, api_key))  # atomic: two threads get the same client
    return _CLIENTS[key]


def _message(error: Any) -> str:
    body = error.body
    body = body.get("error", body) if isinstance(body, Mapping) else body
    message = body.get("message") or body.get("detail") if isinstance(body, Mapping) else None
    return str(message or error.message)
