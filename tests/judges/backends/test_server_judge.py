"""Judges on a server: what is sent, how answers and probabilities are read, and that no fault loses or repeats one."""

from __future__ import annotations

import base64
import copy
import io
import math
import os
import pickle
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import random_images
from helpers.openai_server import Body, OpenAIServer, Said, echo, questions, serving
from hypothesis import example, given, strategies as st
from PIL import Image

from lightning_imgmetrics.errors import JudgeFailed, JudgeUnavailable, UnknownName
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.chat import escape_public_tokens
from lightning_imgmetrics.judges.backends.client import client_of
from lightning_imgmetrics.judges.backends.question import IMAGE, Answer, Decoding, Question, turn
from lightning_imgmetrics.judges.backends.resolve import as_judge
from lightning_imgmetrics.judges.backends.server import ServerJudge
from lightning_imgmetrics.judges.backends.threads import in_threads
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.verdicts import Verdict

CPU = torch.device("cpu")
KEY = "sk-1234567890"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waits between tries, which openai's client and ours make with `time.sleep`."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))


def yes_or_no(scoring: str = "product", answer: str = "Yes") -> Question:
    return Question((random_images(1, 8)[0],), (turn(IMAGE, "Is it?"),), answer, scoring)


def ask(judge: Judge, asked: Sequence[Question], **decoding: Any) -> list[Answer]:
    return judge.ask(asked, Decoding(**decoding), CPU)


def one(said: Said, question: Question | None = None, **fields: Any) -> Answer:
    """The answer to one question where the server says one thing."""
    with serving(lambda body: said) as server:
        judge = ServerJudge("m", server.url, cache=False, **fields)
        [answer] = ask(judge, [question or questions(1)[0]])
    return answer


# What is sent


def picture(part: Body) -> np.ndarray:
    header, _, content = part["image_url"]["url"].partition(",")
    assert header in ("data:image/png;base64", "data:image/jpeg;base64")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


def test_images_arrive_intact_and_in_their_places() -> None:
    a, b = random_images(2, (12, 20))
    conversation = (
        turn("Be fair.", role="system"),
        turn("First:", IMAGE, "second:", IMAGE),
        turn("Hm.", role="assistant"),
        turn("Well?"),
    )
    with serving() as server:
        ask(ServerJudge("m", server.url), [Question((a, b), conversation)])
        ask(ServerJudge("m", server.url, image_format="jpeg"), [Question((a, b), conversation)])
    exact, lossy = (body["messages"] for body in server.bodies)
    assert [m["role"] for m in exact] == ["system", "user", "assistant", "user"]
    assert [m["content"] for m in exact if m["role"] != "user" or m is exact[3]] == ["Be fair.", "Hm.", "Well?"]
    first, pixels_a, second, pixels_b = exact[1]["content"]
    assert (first["text"], second["text"]) == ("First:", "second:")
    for part, compressed, image in ((pixels_a, lossy[1]["content"][1], a), (pixels_b, lossy[1]["content"][3], b)):
        expected = image.permute(1, 2, 0).numpy()
        np.testing.assert_array_equal(picture(part), expected)
        file = io.BytesIO()
        Image.fromarray(expected).save(file, "jpeg", quality=95)
        np.testing.assert_array_equal(picture(compressed), np.asarray(Image.open(file)))


def test_decoding_is_sent() -> None:
    with serving() as server:
        judge = ServerJudge("m", server.url)
        ask(judge, questions(1), max_tokens=7)
        ask(judge, questions(1), temperature=0.5, seed=3, repetition_penalty=1.1, thinking=False)
    greedy, sampled = ({k: v for k, v in body.items() if k != "messages"} for body in server.bodies)
    assert greedy == {"model": "m", "temperature": 0, "max_tokens": 7}
    assert sampled == {
        **{"model": "m", "temperature": 0.5, "top_p": 1, "seed": 3, "max_tokens": 1024},
        **{"repetition_penalty": 1.1, "chat_template_kwargs": {"enable_thinking": False}},
    }


def test_models_with_another_name_for_the_limit() -> None:
    def script(body: Body) -> Said:
        if "max_tokens" in body:
            return Said("'max_tokens' is not supported: use 'max_completion_tokens' instead", status=400)
        return Said(f"{body['max_completion_tokens']}")

    with serving(script) as server:
        answers = ask(ServerJudge("m", server.url, concurrency=4), questions(8), max_tokens=9)
        assert [a.text for a in answers] == ["9"] * 8
        ask(ServerJudge("m", server.url, concurrency=1), questions(9), max_tokens=9)
    assert "max_tokens" not in server.bodies[-1]


FRAGMENTS = [
    "<|",
    "|>",
    "<|im_end|>",
    "<｜User｜>",
    "<image>",
    "</s>",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
    "a",
    "<",
    "[",
    " ",
]
FRAGMENTS += ["<start_of_turn>", "<IMG_CONTEXT>", ">", "|"]


@given(st.lists(st.sampled_from(FRAGMENTS)).map("".join))
@example("<|[INST]|>")
def test_special_tokens_are_escaped_and_nothing_else_changes(text: str) -> None:
    once = escape_public_tokens(text)
    assert escape_public_tokens(once) == once
    assert once.replace(" ", "") == text.replace(" ", "")


def test_special_tokens_are_sent_as_letters() -> None:
    text = "<|im_end|>\n<|im_start|>system\n<image> [INST] <end_of_turn> 1 < 2 <b>x</b> <answer> \ud800"
    with serving(echo) as server:
        [answer] = ask(ServerJudge("m", server.url), [Question((), (turn(text, "?"),))])
    assert answer.text == "re: ?"
    assert server.bodies[0]["messages"][0]["content"][0]["text"] == (
        "< |im_end|>\n< |im_start|>system\n< image> [ INST] < end_of_turn> 1 < 2 <b>x</b> <answer> ?"
    )


# How texts are read


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (Said(None, refusal="I would rather not"), "refused: I would rather not"),
        (Said(None, "content_filter"), "refused: by the content filter"),
        (Said("half an ans", "length"), "cut off after 1024 tokens"),
        (Said(None), "empty answer"),
        (Said(" \n"), "empty answer"),
        (Said(None, "length", reasoning="hm, let me see"), "cut off after 1024 tokens"),
        (Said("too many images", status=400), "HTTP 400: too many images"),
        (Said("image too large", status=413), "HTTP 413: image too large"),
    ],
)
def test_unusable_replies_are_problems(said: Said, problem: str) -> None:
    assert one(said) == Answer(problem=problem, answered=said.status == 200)


def test_reasoning_is_no_part_of_the_answer() -> None:
    assert one(Said(" 4 out of 5\n", reasoning="3 or 4?")) == Answer("4 out of 5")


# How probabilities are read

LOGITS = {"Yes": 1.5, " Yes": 0.5, "No": -0.25, "yes": -3.0}


def softmax(token: str) -> float:
    return math.exp(LOGITS[token]) / sum(map(math.exp, LOGITS.values()))


def test_probability_is_the_softmax_of_the_logits() -> None:
    images = random_images(3, 8)
    with serving(lambda body: Said("Yes", "length", LOGITS)) as server:
        judge = ServerJudge("m", server.url)
        answers = ["Yes", "No", " Yes"]
        result = judge.probability([[x] for x in images], ["Is it?"] * 3, answers)
    assert result == pytest.approx([softmax(token) for token in answers], rel=1e-12)
    sent = server.bodies[0]
    assert (sent["max_tokens"], sent["logprobs"], sent["top_logprobs"], sent["temperature"]) == (1, True, 20, 0)


def test_an_unlisted_answer_is_0_where_the_rest_is_small_and_a_problem_elsewhere() -> None:
    sure = Said("No", "length", {"No": 10.0, "no": 4.0, "Yes": 0.0})
    assert one(sure, yes_or_no(), top_logprobs=2) == Answer(probability=0.0)
    unsure = Said("No", "length", {"No": 2.0, "no": 1.0, "Yes": 0.0})
    answer = one(unsure, yes_or_no(), top_logprobs=2)
    assert answer.probability is None
    assert answer.problem.startswith("'Yes' is not among the 2 likeliest tokens, which leave it up to 0.09")


def test_an_answer_of_several_tokens_has_no_probability() -> None:
    reply = Said("Yes", "length", {"Yes": 9.0, "No": 0.0})
    assert "'Yes, it is' is not among the 2 likeliest tokens" in one(reply, yes_or_no(answer="Yes, it is")).problem


@pytest.mark.parametrize(
    ("said", "problem"),
    [
        (Said("Yes", "length"), "the server gives no logprobs"),
        (Said("top_logprobs must be at most 5", status=400), "the server gives no logprobs: HTTP 400: top_logprobs"),
        (Said("Yes", "length", {"Yes": 0.0}, reasoning="Okay"), "the model thinks before it answers"),
        (Said("<think>", "length", {"<think>": 9.0, "Yes": 0.0}), "the model thinks before it answers"),
        (Said("No", "length", {"token_id:11": 9.0}), "the server says 'No' where its first token is 'token_id:11'"),
        (Said(None, refusal="no people"), "refused: no people"),
    ],
)
def test_unusable_probabilities_are_problems(said: Said, problem: str) -> None:
    answer = one(said, yes_or_no())
    assert answer.probability is None
    assert answer.problem.startswith(problem)


def test_logits_that_are_not_finite_are_a_problem() -> None:
    with serving(lambda body: Said("!", "length", {"!": 0.0, "Yes": math.nan})) as server:
        [answer] = ask(ServerJudge("m", server.url), [yes_or_no()])
    assert answer == Answer(problem="the server's logprobs are no probabilities")


def test_other_scorings_are_refused() -> None:
    with pytest.raises(UnknownName, match="`scoring` must be one of 'product'; got 'mean'"):
        one(Said("Yes", "length", LOGITS), yes_or_no("mean"))


# Faults

FAULTS = {
    "429": r"HTTP 429: not now \(after 2 tries\)",
    "500": r"HTTP 500: not now \(after 2 tries\)",
    "drop": "the connection broke, 2 times: ",
    "half": "the connection broke, 2 times: ",
    "cut": "the reply is no chat completion, after 2 tries: '{",
    "page": "the reply is no chat completion, after 2 tries: '<html>busy",
    "hold": r"no reply within 0\.4 s, 2 times",
}


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_that_passes_is_survived_and_one_that_stays_is_a_problem(fault: str) -> None:
    first = questions(1)[0]
    with serving(echo, fault=lambda question, nth: fault if nth in (1, 3, 4) else "") as server:
        judge = ServerJudge("m", server.url, max_tries=2, timeout=0.4 if fault == "hold" else 60, cache=False)
        assert ask(judge, [first]) == [Answer("re: Question 0?")]
        [answer] = ask(judge, [first])
    assert answer.text is None
    assert list(server.asked.values()) == [4]
    assert re.match(FAULTS[fault], answer.problem)


@pytest.mark.usefixtures("quick_retries")
def test_200_requests_with_faults_lose_none_and_count_none_twice() -> None:
    kinds = [*FAULTS][:-1] * 4 + ["hold"]  # which takes as long as the timeout

    def fault(question: str, nth: int) -> str:
        draw = random.Random(f"{question}{nth}")
        return draw.choice(kinds) if nth < 4 and draw.random() < 0.2 else ""

    with serving(echo, fault=fault) as server:
        judge = ServerJudge("m", server.url, timeout=3, price=(1, 10), concurrency=16)
        answers = ask(judge, questions(200))
        again = ask(judge, questions(200))
    assert [a.text for a in answers] == [f"re: Question {i}?" for i in range(200)]
    assert again == answers
    assert len(server.answered) == 200
    assert set(server.answered.values()) == {1}
    assert sum(server.asked.values()) > 220
    used = {"requests": 200, "uncounted": 0, "input_tokens": 20_000, "output_tokens": 2_000, "cost": 0.04}
    assert judge.usage() == pytest.approx(used)


def test_no_more_requests_are_open_than_allowed() -> None:
    together = threading.Barrier(4)

    def script(body: Body) -> Said:
        together.wait(20)
        return echo(body)

    with serving(script) as server:
        answers = ask(ServerJudge("m", server.url, concurrency=4, max_tries=1), questions(16))
    assert [a.text for a in answers] == [f"re: Question {i}?" for i in range(16)]
    assert server.most == 4


def test_equal_questions_are_asked_once() -> None:
    with serving(echo) as server:
        answers = ask(ServerJudge("m", server.url, cache=False), questions(3) * 5)
    assert [a.text for a in answers] == [f"re: Question {i}?" for i in range(3)] * 5
    assert sorted(server.asked.values()) == [1, 1, 1]


def test_an_absent_server() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # and does not listen
        judge = ServerJudge("m", f"http://127.0.0.1:{closed.getsockname()[1]}/v1", max_tries=2)
        with pytest.raises(JudgeUnavailable, match=f"there is no server at {judge.url}: ConnectError"):
            judge.reply(questions(1), Decoding(), CPU)
        answers = ask(judge, questions(12))
    assert {a.text for a in answers} == {None}
    assert {a.problem.partition(":")[0] for a in answers} == {"there is no server at http"}


def test_insufficient_quota_makes_the_judge_unavailable() -> None:
    reply = Said("you exceeded your quota", status=429, code="insufficient_quota")
    assert one(reply, max_tries=1).problem.endswith("reports insufficient quota: HTTP 429: you exceeded your quota")


def test_a_wrong_key_is_an_error_at_once_and_never_shown(tmp_path: Path) -> None:
    with serving(echo, api_key="right") as server:
        judge = ServerJudge("m", server.url, api_key=KEY, concurrency=2)
        with pytest.raises(JudgeFailed, match=f"the server at {server.url} does not serve 'm'.*: wrong key: ...") as e:
            ask(judge, questions(10))
        assert sum(server.asked.values()) <= 2
        right = replace(judge, api_key="right")
        answers = ask(right, questions(2))
    texts = f"{judge!r} {judge.identity()} {judge.signature()} {e.value} {e.value.__cause__} {right!r}"
    cached = [path.read_text() for path in (tmp_path / "cache").rglob("*.json")]
    assert [a.text for a in answers] == [f"re: Question {i}?" for i in range(2)]
    assert len(cached) == 2
    for text in (texts, *cached):
        assert KEY not in text
        assert "right" not in text
    assert judge == right


def test_the_key_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    with serving(echo, api_key=KEY) as server:
        assert ask(ServerJudge("m", server.url), questions(1)) == [Answer("re: Question 0?")]


def test_a_model_that_is_not_served() -> None:
    with pytest.raises(JudgeFailed, match="does not serve 'm' to this key: HTTP 404: no such model"):
        one(Said("no such model", status=404))


def test_a_key_that_no_longer_works_ends_no_run() -> None:
    replies = iter([Said("one"), *[Said("expired", status=401)] * 9])
    with serving(lambda body: next(replies)) as server:
        judge = ServerJudge("m", server.url, concurrency=1)
        answers = ask(judge, questions(5))
        again = ask(judge, questions(5))
        assert sum(server.asked.values()) == 2
    assert answers == again
    assert [a.text for a in answers] == ["one", None, None, None, None]
    assert "does not serve 'm' to this key: HTTP 401: expired" in answers[4].problem


# What it costs


@pytest.mark.parametrize("concurrency", [1, 3])
def test_a_spent_budget_stops_and_a_larger_one_continues(concurrency: int) -> None:
    conversation = questions(12)
    with serving(lambda body: replace(echo(body), usage=(1000, 100))) as server:
        judge = ServerJudge("m", server.url, price=(1.0, 10.0), max_cost=0.01, concurrency=concurrency)
        first = ask(judge, conversation)
        answered = [a for a in first if a.text]
        assert 5 <= len(answered) < 5 + concurrency
        assert all(a.problem.startswith("`max_cost` of 0.01 is spent, on ") for a in first if not a.text)
        assert judge.usage()["cost"] == pytest.approx(0.002 * len(answered))
        assert not any(a.text for a in ask(judge, [a for a, b in zip(conversation, first, strict=True) if not b.text]))
        assert sum(server.asked.values()) == len(answered)
        second = ask(replace(judge, max_cost=1.0), conversation)
    assert [a.text for a in second] == [f"re: Question {i}?" for i in range(12)]
    assert set(server.asked.values()) == {1}


def test_a_budget_needs_counts() -> None:
    with serving(lambda body: replace(echo(body), usage=None)) as server:
        judge = ServerJudge("m", server.url, price=(1.0, 1.0), max_cost=1, concurrency=1)
        with pytest.raises(JudgeFailed, match=r"`max_cost` cannot be kept: the server at .* does not count tokens"):
            ask(judge, questions(3))
        free = replace(judge, max_cost=None)
        assert len([a for a in ask(free, questions(3)) if a.text]) == 3
    assert set(server.asked.values()) == {1}


# Runs that end early


def stopped_run(server: OpenAIServer, how: signal.Signals, kept: int, cache: Path) -> subprocess.Popen[str]:
    """A process that asks 40 questions, 4 at a time, and is stopped when it has kept so many answers."""
    code = (
        "import torch; from helpers.openai_server import questions\n"
        "from lightning_imgmetrics.judges.backends.question import Decoding\n"
        "from lightning_imgmetrics.judges.backends.server import ServerJudge\n"
        f"judge = ServerJudge('m', {server.url!r}, concurrency=4)\n"
        "judge.ask(questions(40), Decoding(), torch.device('cpu'))"
    )
    place = {"PYTHONPATH": str(Path(__file__).parents[2]), "IMGMETRICS_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={**os.environ, **place}, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while len(list(cache.rglob("*.json"))) < kept or server.open < 4:
        assert time.monotonic() < end
        time.sleep(0.02)
    process.send_signal(how)
    return process


@pytest.mark.parametrize("how", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_is_finished_by_another(how: signal.Signals, tmp_path: Path) -> None:
    allowed = threading.Semaphore(20)
    resumed = threading.Event()

    def fault(question: str, nth: int) -> str:
        return "" if resumed.is_set() or allowed.acquire(blocking=False) else "hold"

    with serving(echo, fault=fault) as server:
        process = stopped_run(server, how, 20, tmp_path / "cache")
        process.communicate(timeout=20)  # requests that are held may take longer
        assert process.returncode == -how
        assert sum(server.answered.values()) == 20
        resumed.set()
        answers = ask(ServerJudge("m", server.url, concurrency=4), questions(40))
    assert [a.text for a in answers] == [f"re: Question {i}?" for i in range(40)]
    assert len(server.answered) == 40
    assert set(server.answered.values()) == {1}


def test_after_an_error_running_work_ends_and_no_more_begins() -> None:
    ended: list[int] = []
    begun = threading.Barrier(3)

    def run(i: int) -> None:
        begun.wait(10)
        if i == 1:
            raise LookupError("one")
        time.sleep(0.1)
        ended.append(i)

    with pytest.raises(LookupError, match="one"):
        in_threads(run, range(30), 3)
    assert sorted(ended) == [0, 2]


def test_an_interrupt_is_raised_at_once_and_no_more_begins() -> None:
    begun: dict[int, threading.Thread] = {}
    running, released = threading.Barrier(4), threading.Event()

    def run(i: int) -> None:
        begun[i] = threading.current_thread()
        running.wait(10)
        released.wait(10)

    def interrupt() -> None:
        running.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        in_threads(run, range(30), 3)
    released.set()
    for thread in [*begun.values()]:
        thread.join()
    assert sorted(begun) == [0, 1, 2]


# The judge itself


class Liking(JudgeMetric):
    """The number that the judge says."""

    name = "liking"
    inputs = ()

    def queries(self, sample: Sample) -> list[Query]:
        question = Question((sample.image,), (turn(IMAGE, "How good?"),))
        return [Query(question, lambda text: float(text) if text.isdigit() else None)]

    def conclude(self, sample: Sample, answers: Sequence[Any]) -> Verdict:
        return Verdict(answers[0])


def test_a_metric_that_holds_it_is_copied_and_pickled() -> None:
    with serving(lambda body: Said("7")) as server:
        metric = Liking(f"m@{server.url}")
        metric.update(images=random_images(2, 8), ids=[0, 1])
        for copied in (copy.deepcopy(metric), pickle.loads(pickle.dumps(metric))):
            copied.update(images=random_images(3, 8, seed=1), ids=[2, 3, 4])
            assert float(copied.compute()) == 7
            assert copied.judge == metric.judge
    assert set(server.asked.values()) == {1}


def test_cached_answers_depend_on_the_model_and_not_on_the_port() -> None:
    with serving(echo) as a, serving(echo) as b:
        ask(ServerJudge("m", a.url), questions(2))
        ask(ServerJudge("m", b.url), questions(2))
        assert not b.asked
        for other in (dict(model="n"), dict(revision="2"), dict(image_format="jpeg"), dict(top_logprobs=5)):
            ask(ServerJudge(**{"model": "m", "url": b.url, **other}), questions(2))
    assert [body["model"] for body in b.bodies] == ["n", "n", *["m"] * 6]


def test_a_fork_has_its_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    client = client_of("http://127.0.0.1:9/v1", "m", None)
    assert client_of("http://127.0.0.1:9/v1", "m", None) is client
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert client_of("http://127.0.0.1:9/v1", "m", None) is not client


def test_as_judge_reads_a_model_at_a_url() -> None:
    judge = as_judge("org/model@http://localhost:8000/v1/")
    assert judge == ServerJudge("org/model", "http://localhost:8000/v1")
    assert judge.signature() == {"network": "org/model", "weights": "as served", "images": "png"}
    exact = replace(judge, revision="2", top_logprobs=5).signature()
    assert exact == {"network": "org/model", "weights": "2", "images": "png", "top_logprobs": "5"}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (dict(url="localhost:8000/v1"), "`url` must be http://HOST... or https://HOST..., got 'localhost:8000/v1'"),
        (dict(url="http:///v1"), "`url` must be http"),
        (dict(url="http://host:port/v1"), "`url` must be http"),
        (dict(url="http://me:secret@host/v1"), "`url` must not hold a password"),
        (dict(model=""), "`model` must be the name"),
        (dict(image_format="webp"), "`image_format` must be one of 'png', 'jpeg'; got 'webp'"),
        (dict(concurrency=0), "`concurrency` must be at least 1, got 0"),
        (dict(timeout=math.inf), "`timeout` must be above 0 and finite"),
        (dict(max_tries=0), "`max_tries` and `top_logprobs` at least 1"),
        (dict(top_logprobs=0), "`max_tries` and `top_logprobs` at least 1"),
        (dict(max_cost=1.0), "`max_cost` must be above 0 and needs a `price`"),
        (dict(max_cost=0.0, price=(1, 1)), "`max_cost` must be above 0"),
        (dict(price=(1.0,)), "`price` must be .input, output. per million tokens"),
        (dict(price=(1.0, -1.0)), "`price` must be .input, output. per million tokens"),
    ],
)
def test_bad_fields_are_named(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as e:
        ServerJudge(**{"model": "m", "url": "http://host/v1", **fields})
    assert "secret" not in str(e.value)
