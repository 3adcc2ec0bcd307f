"""Speed of questions to judges, as ratios within one run on one machine: what is added to the time of the answers.

    python benchmarks/judges.py               # all of it, about a minute on 2 cores
    python benchmarks/judges.py --small       # to see that it runs

The server runs on this machine and takes 50 ms for an answer, as a fast one does. Theirs: the plain `openai` client in
a loop, as in published scripts, and in a thread pool of the same width.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import torch
from common import SMALL, Row, Sizes, row, show, smooth_images, timed
from torch import Tensor

from lightning_imgmetrics import Decoding, Question, RubricJudge, ServerJudge, turn
from lightning_imgmetrics.judges.backends.chat import chat_messages
from lightning_imgmetrics.judges.backends.question import IMAGE

_SECONDS = 0.05
_WIDTH = 16
_MESSAGE = {"role": "assistant", "content": json.dumps({"reasoning": "it is so", "score": 4})}
_REPLY = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": _MESSAGE}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()


class _Slow(BaseHTTPRequestHandler):
    """Gives every question the same answer."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        time.sleep(_SECONDS)
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(_REPLY)))
        self.end_headers()
        self.wfile.write(_REPLY)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def server() -> Iterator[str]:
    """The base URL of a server."""
    running = ThreadingHTTPServer(("127.0.0.1", 0), _Slow)
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{running.server_port}/v1"
    finally:
        running.shutdown()


def questions_about_images(sizes: Sizes) -> list[Question]:
    images = smooth_images(sizes.images, sizes.pixels, 0)
    return [Question((image,), (turn(IMAGE, f"question {i}?"),)) for i, image in enumerate(images)]


def remote(sizes: Sizes) -> Iterator[Row]:
    """Questions to a server."""
    from openai import OpenAI

    questions, cpu = questions_about_images(sizes), torch.device("cpu")
    with server() as url:
        client = OpenAI(base_url=url, api_key="none")
        judge = ServerJudge("m", url, concurrency=_WIDTH, cache=False)

        def one(question: Question) -> None:
            messages = chat_messages(question, "png")
            client.chat.completions.create(model="m", messages=messages, max_tokens=9, temperature=0)

        def loop() -> None:
            for question in questions:
                one(question)

        def pool() -> None:
            with ThreadPoolExecutor(_WIDTH) as threads:
                list(threads.map(one, questions))

        def ours() -> None:
            judge.ask(questions, Decoding(max_tokens=9), cpu)

        mine, looped, pooled = timed(ours, loop, pool)
        what = f"{len(questions)} questions to a server that takes {1000 * _SECONDS:.0f} ms"
        yield row(f"{what}, vs a loop", mine, looped)
        yield row(f"- vs a pool of {_WIDTH} threads", mine, pooled)


def cached(sizes: Sizes) -> Iterator[Row]:
    """A rubric over a batch, for the first time and again."""
    images: Tensor = smooth_images(sizes.images, sizes.pixels, 1)
    with server() as url:
        judge = ServerJudge("m", url, concurrency=_WIDTH)

        def measure() -> None:
            rubric = RubricJudge(judge)
            rubric.update(images=images, prompts="a picture", ids=range(len(images)))
            rubric.compute()

        start = time.perf_counter()
        measure()
        first = time.perf_counter() - start
        (again,) = timed(measure, warm_up=False)
    yield row(f"a rubric of 7 criteria over {len(images)} images, answers on disk, vs asked", again, first)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true")
    sizes = SMALL if parser.parse_args().small else Sizes()
    os.environ["NO_PROXY"] = "*"
    with tempfile.TemporaryDirectory() as cache:
        os.environ["IMGMETRICS_CACHE"] = cache
        show(row for part in (remote, cached) for row in part(sizes))


if __name__ == "__main__":
    main()
