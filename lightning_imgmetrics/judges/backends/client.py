"""The line to an OpenAI-compatible server: one client per process, its tries, and what the replies used."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from lightning_imgmetrics.errors import JudgeFailed, JudgeUnavailable, require

NO_KEY = "none"  # the client insists on one
_UNREACHED = ("ConnectError", "ConnectTimeout")  # of httpx, whichever of its versions the client stands on
_CONNECT = 10.0  # seconds
_PAUSE = 30.0  # seconds for which a server that was not there is not looked for again
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 8.0  # seconds between tries, doubling: the client's own


class NoAnswer(Exception):
    """A question has no answer, and why; `given`: what was answered cannot be used."""

    def __init__(self, problem: str, *, given: bool = False):
        super().__init__(problem)
        self.given = given


class Line:
    """What all judges of one process share that ask one model on one server under one key."""

    def __init__(self, url: str, model: str, secret: str):
        self.openai = require("openai", "judge")
        self.client = self.openai.OpenAI(base_url=url, api_key=secret)
        self.url, self.model, self.secret = url, model, secret
        self.limit = "max_tokens"
        self.lock = threading.Lock()
        self.requests = self.uncounted = self.input_tokens = self.output_tokens = 0
        self.down_until, self.trouble = 0.0, ""

    def post(self, request: Mapping[str, Any], max_tokens: int, *, tries: int, timeout: float) -> dict[str, Any]:
        """The choice that answers a request, {"message": {...}, ...}; NoAnswer where there is none.

        JudgeFailed: the key or the model is not accepted. JudgeUnavailable: nobody listens, the account is empty, or
        what was accepted before no longer is.
        """
        if time.monotonic() < self.down_until:
            raise JudgeUnavailable(self.trouble)
        done = 0
        while True:
            limit = self.limit
            try:
                raw = self._send({**request, limit: max_tokens}, tries - done, timeout)
            except self.openai.APIError as error:
                if limit == "max_tokens" and "max_completion_tokens" in error.message:  # as newer models call it
                    self.limit = "max_completion_tokens"
                    continue
                failure = self._failure(error, tries, timeout)
                if isinstance(failure, JudgeUnavailable):
                    self.down_until, self.trouble = time.monotonic() + _PAUSE, str(failure)
                raise failure from None  # what it holds may name the key
            done += raw.retries_taken + 1
            try:
                return self._read(raw.content)
            except (ValueError, LookupError, TypeError, AttributeError):
                if done >= tries:
                    said = self._clean(raw.content.decode("utf-8", "replace"))
                    raise NoAnswer(f"the reply is no chat completion, after {tries} tries: {said!r}") from None
            time.sleep(min(_FIRST_WAIT * 2 ** (done - 1), _LONGEST_WAIT))

    def used(self) -> dict[str, int]:
        """Replies so far, and the tokens that the server counted for them."""
        with self.lock:
            return {k: getattr(self, k) for k in ("requests", "uncounted", "input_tokens", "output_tokens")}

    def _send(self, request: Mapping[str, Any], tries: int, timeout: float) -> Any:
        limits = self.openai.Timeout(timeout, connect=min(timeout, _CONNECT))
        client = self.client.with_options(max_retries=tries - 1, timeout=limits)
        return client.chat.completions.with_raw_response.create(**request)

    def _read(self, content: bytes) -> dict[str, Any]:
        reply = json.loads(content)
        choice = reply["choices"][0]
        found = {**choice, "message": dict(choice["message"])}
        usage = reply.get("usage") or {}
        tokens = [int(usage.get(name) or 0) for name in ("prompt_tokens", "completion_tokens")]
        with self.lock:
            self.requests += 1
            self.uncounted += not usage
            self.input_tokens += tokens[0]
            self.output_tokens += tokens[1]
        return found

    def _failure(self, error: Any, tries: int, timeout: float) -> Exception:
        """What an error of the client means for the question, or for all of them."""
        if isinstance(error, self.openai.APIStatusError):
            code = error.status_code
            said = f"HTTP {code}: {self._clean(_message(error))}"
            if code in (401, 403, 404):
                told = f"the server at {self.url} does not serve {self.model!r} to this key: {said}"
                return JudgeUnavailable(told) if self.requests else JudgeFailed(told)
            if error.code == "insufficient_quota":
                return JudgeUnavailable(f"the server at {self.url} wants to be paid: {said}")
            return NoAnswer(said + (f" (after {tries} tries)" if code in (408, 409, 429) or code >= 500 else ""))
        cause = error.__cause__
        why = self._clean(f"{type(cause).__name__}: {cause}".rstrip(": "))
        if type(cause).__name__ in _UNREACHED:
            return JudgeUnavailable(f"there is no server at {self.url}: {why}")
        if isinstance(error, self.openai.APITimeoutError):
            return NoAnswer(f"no reply within {timeout:g} s, {tries} times")
        return NoAnswer(f"the connection broke, {tries} times: {why}")

    def _clean(self, text: str) -> str:
        """At most 300 characters on one line, without the key."""
        told = text if self.secret == NO_KEY else text.replace(self.secret, "...")
        return " ".join(told.split())[:300]


_LINES: dict[tuple[int, str, str, str], Line] = {}


def line_to(url: str, model: str, api_key: str | None) -> Line:
    """The line of this process; a fork has its own. Without `api_key`, that of OPENAI_API_KEY."""
    secret = (api_key or os.environ.get("OPENAI_API_KEY") or NO_KEY).strip()
    key = os.getpid(), url, model, secret
    if key not in _LINES:
        _LINES.setdefault(key, Line(url, model, secret))  # where two threads are at it, one client serves both
    return _LINES[key]


def _message(error: Any) -> str:
    body = error.body
    body = body.get("error", body) if isinstance(body, Mapping) else body
    told = body.get("message") or body.get("detail") if isinstance(body, Mapping) else None
    return str(told or error.message)
