"""A server on this machine that speaks chat completions: answers by a script, faults by a plan, and counts."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from lightning_imgmetrics.judges.backends.question import IMAGE, Question, turn

Body = dict[str, Any]


def questions(n: int) -> list[Question]:
    """n questions, of an image each."""
    g = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (n, 3, 8, 8), generator=g, dtype=torch.uint8)
    return [Question((images[i],), (turn(IMAGE, f"Question {i}?"),)) for i in range(n)]


@dataclass(frozen=True)
class Said:
    """What the model says to one request; `logits` of the first token are given where they are asked for."""

    text: str | None = "fine"
    finish_reason: str = "stop"
    logits: Mapping[str, float] | None = None
    refusal: str | None = None
    reasoning: str | None = None
    usage: tuple[int, int] | None = (100, 10)
    status: int = 200  # of an error, whose message is `text`
    code: str | None = None

    def body(self, request: Body) -> Body:
        if self.status != 200:
            return {"error": {"message": self.text, "code": self.code, "type": "invalid_request_error"}}
        message = {"role": "assistant", "content": self.text, "refusal": self.refusal}
        message |= {} if self.reasoning is None else {"reasoning_content": self.reasoning}
        choice: Body = {"index": 0, "finish_reason": self.finish_reason, "message": message, "logprobs": None}
        if request.get("logprobs") and self.logits is not None:
            choice["logprobs"] = {"content": [first_token(self.logits, self.text, request["top_logprobs"])]}
        reply: Body = {"id": "1", "object": "chat.completion", "created": 0, "model": request["model"]}
        if self.usage is not None:
            read, written = self.usage
            reply["usage"] = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
        return {**reply, "choices": [choice]}


def echo(body: Body) -> Said:
    """A script that repeats the last text."""
    return Said("re: " + body["messages"][-1]["content"][-1]["text"])


def first_token(logits: Mapping[str, float], text: str | None, most: int) -> Body:
    """The log probabilities of a first token, the likeliest ones listed."""
    total = math.log(sum(map(math.exp, logits.values())))
    listed = sorted(((token, x - total) for token, x in logits.items()), key=lambda pair: -pair[1])[:most]
    return {
        "token": listed[0][0] if text else "<|im_end|>",
        "logprob": listed[0][1],
        "top_logprobs": [{"token": token, "logprob": x, "bytes": None} for token, x in listed],
    }


def question_of(body: Body) -> str:
    """The same for requests that ask the same."""
    return hashlib.sha256(json.dumps(body["messages"], sort_keys=True).encode()).hexdigest()


class OpenAIServer(ThreadingHTTPServer):
    """`script(body)` gives what is said; `fault(question, nth)` the name of what goes wrong on the nth request, or "".

    `asked` and `answered` count requests and whole answers by question, `most` the requests that were open at a time.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, script: Callable[[Body], Said], fault: Callable[[str, int], str], api_key: str):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script, self.fault, self.api_key = script, fault, api_key
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.asked: Counter[str] = Counter()
        self.answered: Counter[str] = Counter()
        self.bodies: list[Body] = []
        self.open = self.most = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients hang up."""


class _Handler(BaseHTTPRequestHandler):
    server: OpenAIServer
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        question = question_of(body)
        with server.lock:
            server.bodies.append(body)
            server.asked[question] += 1
            nth = server.asked[question]
            server.open += 1
            server.most = max(server.most, server.open)
        try:
            said = self._said(body)
            fault = server.fault(question, nth)
            if fault == "hold":
                server.closing.wait(60)
        finally:
            with server.lock:
                server.open -= 1
        if said.status == 200 and not fault:
            with server.lock:
                server.answered[question] += 1
        self._send(said.status, json.dumps(said.body(body)).encode(), fault)

    def _said(self, body: Body) -> Said:
        if self.path != "/v1/chat/completions":
            return Said(f"no {self.path}", status=404)
        key = self.headers["Authorization"].removeprefix("Bearer ")
        if self.server.api_key not in ("", key):
            return Said(f"wrong key: {key}", status=401)
        return self.server.script(body)

    def _send(self, status: int, content: bytes, fault: str) -> None:
        if fault in ("drop", "hold"):
            self.close_connection = True
            return
        if fault.isdigit():
            status, content = int(fault), b'{"error": {"message": "not now"}}'
        if fault == "page":
            content = b"<html>busy</html>"
        sent = content[: len(content) // 2] if fault in ("half", "cut") else content
        self.send_response(status)
        self.send_header("Content-Type", "text/html" if fault == "page" else "application/json")
        self.send_header("Content-Length", str(len(sent if fault == "cut" else content)))
        self.send_header("Retry-After-Ms", "10")
        self.end_headers()
        self.wfile.write(sent)
        self.close_connection = fault == "half"

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@contextmanager
def serving(
    script: Callable[[Body], Said] = lambda body: Said(),
    *,
    fault: Callable[[str, int], str] = lambda question, nth: "",
    api_key: str = "",
) -> Iterator[OpenAIServer]:
    """A server while the context lasts; `api_key`: the only one that it takes."""
    server = OpenAIServer(script, fault, api_key)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closing.set()
        server.shutdown()
        thread.join()
        server.server_close()
