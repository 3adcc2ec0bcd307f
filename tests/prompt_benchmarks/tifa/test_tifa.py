"""TIFA: the published sums from scripted answers, what counts as an answer, items and their images, own questions."""

from __future__ import annotations

import json
import math
import pickle
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.benchmark_references import tifa_scores
from helpers.checkpoints import randomized
from helpers.judges import ScriptedJudge, byte_tokenizer, qwen2_vl, texts_of
from hypothesis import given, settings, strategies as st
from torch import Tensor
from transformers import BertConfig, BertModel

from lightning_imgmetrics import MetricSuite
from lightning_imgmetrics.errors import (
    JudgeFailed,
    MissingWeights,
    UnknownName,
    UnreadableQuestions,
    WeightsMismatch,
)
from lightning_imgmetrics.judges.backends.chat import chat_messages
from lightning_imgmetrics.judges.backends.local import LocalJudge
from lightning_imgmetrics.judges.backends.question import Decoding, Question
from lightning_imgmetrics.judges.metrics.closed_questions import chosen
from lightning_imgmetrics.prompt_benchmarks.base.question_files import TifaQuestion, read_tifa
from lightning_imgmetrics.prompt_benchmarks.base.question_scores import closest_choice
from lightning_imgmetrics.prompt_benchmarks.tifa.generate import generate_questions, write_tifa
from lightning_imgmetrics.prompt_benchmarks.tifa.metric import TIFA
from lightning_imgmetrics.prompt_benchmarks.tifa.sentence_embedder import SentenceEmbedder

TYPES = ("object", "color", "animal/human")
ODD = 'say "hi, {you}",\n%s \\n größer 木 \U0001f600 <|im_end|> '
CHOICES = ("red", "dark red", "yes", "no")


def flat(*levels: int) -> Tensor:
    """One image per number, all of one level: an image can be told by its first pixel."""
    return torch.stack([torch.full((3, 8, 8), 10 + level, dtype=torch.uint8) for level in levels])


def level(question: Question) -> int:
    return int(question.images[0][0, 0, 0]) - 10


def made(item: int, number: int = 0, **changes: Any) -> TifaQuestion:
    kind = TYPES[(item + number) % 3]
    base = TifaQuestion(f"c_{item}", f"caption {item}", f"q{item}.{number}?", CHOICES, CHOICES[number % 4], kind, "it")
    return replace(base, **changes)


def asked_of(question: Question) -> str:
    return next(line for line in texts_of(question).split("\n") if line.startswith("Question: ")).removeprefix(
        "Question: "
    )


def scripted(answers: dict[tuple[int, str], str | None], name: str = "") -> ScriptedJudge:
    """Says what `answers` has for the level of the image and the question."""
    return ScriptedJudge(lambda q: answers[level(q), asked_of(q)], name=name)


def world_of(seed: int, captions: int = 5) -> tuple[list[TifaQuestion], dict[tuple[int, str], str | None]]:
    """Questions about some captions and the answers to them, image i being of caption i; about one in six failed."""
    draw = random.Random(seed)
    questions = [made(i, j) for i in range(captions) for j in range(draw.randint(1, 6))]
    answers = {(int(q.id[2:]), q.question): draw.choice([q.answer, q.answer, *CHOICES, None]) for q in questions}
    return questions, answers


# The published sums


def by_hand(questions: list[TifaQuestion], answers: dict[tuple[int, str], str | None]) -> Any:
    said = [answers[int(q.id[2:]), q.question] for q in questions]
    right = [None if x is None else float(x == q.answer) for x, q in zip(said, questions, strict=True)]
    return tifa_scores([q.id for q in questions], [q.element_type for q in questions], right)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), captions=st.integers(1, 7), step=st.integers(1, 4))
def test_the_published_sums(seed: int, captions: int, step: int) -> None:
    questions, answers = world_of(seed, captions)
    metric = TIFA(questions, scripted(answers), max_failed=1.0)
    order = random.Random(seed).sample(range(captions), captions)
    for start in range(0, captions, step):
        ids = order[start : start + step]
        metric.update(images=flat(*ids), prompts=[f"caption {i}" for i in ids], ids=ids)
    if all(x is None for x in answers.values()):
        with pytest.raises(JudgeFailed, match="silent"):
            metric.compute()
        return
    expected, result = by_hand(questions, answers), metric.result()
    assert result.value == expected.average
    assert result.details.get("stdev") == expected.stdev
    assert {name: (x.value, x.n) for name, x in metric.categories().items()} == {
        name: (value, expected.element_types.n[name]) for name, value in expected.element_types.mean.items()
    }
    assert result.details["n_failed_questions"] == expected.n_failed
    assert metric.missing() == expected.captions.absent
    assert result.details["n_items"] == len(expected.captions.mean)
    if expected.stdev is not None:
        assert result.details["standard_error"] == expected.stdev / math.sqrt(len(expected.captions.mean))


def test_several_images_of_a_caption_count_as_one() -> None:
    questions = [made(0, 2), made(0, 3), made(1, 2)]
    answers = {(0, "q0.2?"): "yes", (0, "q0.3?"): "no", (7, "q0.2?"): "no", (7, "q0.3?"): None, (1, "q1.2?"): "yes"}
    metric = TIFA(questions, scripted(answers))
    metric.update(images=flat(0, 7, 1), prompts=["caption 0", "caption 0", "caption 1"])
    assert float(metric.compute()) == 0.75  # (1 + 0) / 2 of the first, 1 of the second
    assert metric.result().n == 3
    assert metric.result().details["n_items"] == 2


def test_an_interval_of_a_type_takes_captions_as_units() -> None:
    """Twenty equal answers about one caption say no more than one."""
    questions = [made(i, 2, question=f"q{i}.{j}?", element_type="object") for i in range(3) for j in range(20)]
    answers = {(i, f"q{i}.{j}?"): "yes" if i else "no" for i in range(3) for j in range(20)}
    metric = TIFA(questions, scripted(answers))
    metric.update(images=flat(0, 1, 2), prompts=metric.prompts)
    metric.compute()
    category = metric.categories()["object"]
    assert (category.value, category.n) == (2 / 3, 60)
    low, high = category.interval
    assert high - low > 0.8


def test_rows_tell_what_was_asked_and_said() -> None:
    questions = [made(0, 0), made(0, 2), made(0, 3)]
    answers = {(0, "q0.0?"): "Red.", (0, "q0.2?"): "no", (0, "q0.3?"): "purple"}
    metric = TIFA(questions, scripted(answers), max_failed=0.5)
    metric.update(images=flat(0), prompts="caption 0", ids=[3])
    (record,) = metric.records()
    assert (record["id"], record["item"], record["score"]) == (3, "c_0", 0.5)
    assert [(row["question"], row["read"], row["expected"], row["score"]) for row in record["rows"]] == [
        ("q0.0?", "red", "red", 1.0),
        ("q0.2?", "no", "yes", 0.0),
        ("q0.3?", None, "no", None),
    ]
    assert [row["category"] for row in record["rows"]] == [q.element_type for q in questions]
    assert record["rows"][2]["problem"] == "unreadable answer: 'purple'"
    assert [(row["answer"], row["tries"]) for row in record["rows"]] == [("Red.", 1), ("no", 1), ("purple", 2)]
    assert metric.rationales() == {3: "q0.2? 'no' instead of 'yes'"}


def test_too_many_failures_are_an_error_even_where_every_image_has_a_score() -> None:
    questions, answers = [made(0, j) for j in range(4)], {(0, f"q0.{j}?"): None if j else "red" for j in range(4)}
    metric = TIFA(questions, scripted(answers))
    metric.update(images=flat(0), prompts="caption 0")
    with pytest.raises(JudgeFailed, match=r"3 of 4 questions .* `max_failed` is 0.2. silent \(3x\)"):
        metric.compute()


def test_repeated_draws_are_averaged_by_question() -> None:
    questions = [made(0, 2), made(0, 2, question="again?")]
    said = iter(["yes", "yes", "no", "yes"])
    metric = TIFA(questions, ScriptedJudge(lambda q: next(said)), repeats=2, decoding=Decoding(temperature=0.7))
    metric.update(images=flat(0), prompts="caption 0")
    assert float(metric.compute()) == metric.categories()[questions[0].element_type].value == 0.75
    assert [row["score"] for row in metric.records()[0]["rows"]] == [0.5, 1]
    judge = ScriptedJudge(lambda q: "yes" if "q0.2" in texts_of(q) else None)
    metric = TIFA(questions, judge, repeats=3, decoding=Decoding(temperature=0.7), max_failed=0.5)
    metric.update(images=flat(0), prompts="caption 0")
    assert float(metric.compute()) == 1
    assert metric.result().details["n_failed_questions"] == 1


# Answers


@pytest.mark.parametrize(
    ("said", "choice"),
    [
        ("yes", "yes"),
        (" Yes.\n", "yes"),
        ('"no"', "no"),
        ("**Dark red**", "dark red"),
        ("The answer is dark red.", "dark red"),
        ("red", "red"),
        ("<think>no, or red?</think>yes", "yes"),
        ("<think>yes", None),
        ("maybe", None),
        ("yes and no", None),
        ("red or yes", None),
        ("I'm sorry, I cannot assist with that.", None),
        ("I can see no image", None),
        ("", None),
    ],
)
def test_what_an_answer_chooses(said: str, choice: str | None) -> None:
    assert chosen(said, CHOICES) == choice


def test_choices_that_punctuation_tells_apart_are_answered_to_the_letter() -> None:
    assert chosen("10%", ("10", "10%")) == "10%"
    assert chosen("it is 10%", ("10", "10%")) is None


def test_a_second_try() -> None:
    judge = ScriptedJudge(lambda q: "yes" if len(q.messages) == 3 else "hard to say")
    metric = TIFA([made(0, 2)], judge)
    metric.update(images=flat(0), prompts="caption 0")
    assert float(metric.compute()) == 1
    assert metric.result().details["parse_failure_rate"] == 0.5
    assert "word for word" in texts_of(judge.asked[1])


def test_what_the_judge_is_shown() -> None:
    judge = ScriptedJudge(lambda q: "no")
    metric = TIFA([made(0, 2, question=f"what is on the sign, {ODD}?")], judge)
    metric.update(images=flat(5), prompts="caption 0")
    (asked,) = judge.asked
    assert level(asked) == 5
    assert f"what is on the sign, {ODD}?" in texts_of(asked)
    assert "Choices: red, dark red, yes, no\n" in texts_of(asked)
    assert "caption 0" not in texts_of(asked)  # it would give the answer away


# Answers in the judge's own words


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = byte_tokenizer()
    small = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32)
    config = BertConfig(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **small)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        randomized(BertModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_sentence_embeddings_are_means_over_tokens(encoder: str) -> None:
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(encoder).eval(), AutoTokenizer.from_pretrained(encoder)
    texts = ["a cat", "", "größer 木 " * 5, "x" * 1000]
    found = SentenceEmbedder(encoder).embed(texts, torch.device("cpu"))
    for text, row in zip(texts, found, strict=True):
        if not text:
            assert not row.any()
            continue
        with torch.no_grad():
            tokens = tokenizer(text, truncation=True, max_length=384, return_tensors="pt")
            mean = model(**tokens).last_hidden_state[0].mean(0)
        torch.testing.assert_close(row, mean / mean.norm(), rtol=1e-4, atol=1e-5)


def test_free_answers_go_to_the_closest_choice(encoder: str) -> None:
    said = ["Red ", "crimson", "a tomato", "nope"]
    questions = [made(0, j) for j in range(4)]
    metric = TIFA(questions, scripted({(0, f"q0.{j}?"): said[j] for j in range(4)}), matching="free", embedder=encoder)
    metric.update(images=flat(0), prompts="caption 0")
    rows = metric.records()[0]["rows"]
    embedder = SentenceEmbedder(encoder)
    choices = embedder.embed(CHOICES, torch.device("cpu"))
    closest = [CHOICES[closest_choice(x, choices)] for x in embedder.embed(said, torch.device("cpu"))]
    assert [row["choice"] for row in rows] == ["red", *closest[1:]]
    assert [row["answer"] for row in rows] == [text.strip() for text in said]
    assert float(metric.compute()) == sum(row["choice"] == CHOICES[j] for j, row in enumerate(rows)) / 4
    assert "Choices" not in texts_of(metric.judge.asked[0])
    assert "|embedder:" in metric.result().signature
    assert metric.networks == (embedder,)


def test_literal_answers_need_no_embedder() -> None:
    metric = TIFA([made(0, 2)], ScriptedJudge(lambda q: "YES"), matching="free", embedder="nobody/nothing")
    metric.update(images=flat(0), prompts="caption 0")
    assert float(metric.compute()) == 1
    other = TIFA([made(0, 2)], ScriptedJudge(lambda q: "sure"), matching="free", embedder="nobody/nothing")
    with pytest.raises(MissingWeights, match="nobody/nothing"):
        other.update(images=flat(0), prompts="caption 0")


def test_a_checkpoint_that_is_no_encoder_of_texts(tmp_path: Path) -> None:
    with pytest.raises(WeightsMismatch):
        SentenceEmbedder(qwen2_vl(tmp_path)).embed(["a"], torch.device("cpu"))


# Images and items


def test_captions_are_found_whatever_their_spaces() -> None:
    odd = made(0, 2, caption=ODD)
    metric = TIFA([odd, made(1, 2)], ScriptedJudge(lambda q: "yes"))
    metric.update(images=flat(0, 0, 0), prompts=[" ".join(ODD.split()), ODD + "\n", "c_0"])
    metric.compute()
    assert metric.missing() == ["c_1"]
    assert metric.prompts == [ODD, "caption 1"]


@pytest.mark.parametrize("ids", [None, [0, 1, 2, 3, 4, 5]])
def test_captions_that_two_items_share(ids: list[int] | None) -> None:
    """In order, each has its own images; out of order, any may have them."""
    questions = [made(0, 2), made(1, 2, caption="caption 0"), made(2, 2)]
    answers = {(i, f"q{i % 3}.2?"): "yes" for i in range(6)}
    metric = TIFA(questions, scripted(answers))
    metric.update(images=flat(*range(6)), prompts=metric.prompts * 2, ids=ids)
    assert [record["item"] for record in metric.records()] == ["c_0", "c_1", "c_2"] * 2
    anyone = TIFA(questions, ScriptedJudge(lambda q: "yes"))
    anyone.update(images=flat(0, 1), prompts="caption 0", ids=[8, 11])
    assert {record["item"] for record in anyone.records()} == {"c_0", "c_1"}


def test_a_prompt_of_no_item() -> None:
    metric = TIFA([made(0)], ScriptedJudge(lambda q: "no"))
    with pytest.raises(ValueError, match=r"`prompts\[1\]` is no prompt, and no name, of an item of tifa: 'caption 9'"):
        metric.update(images=flat(0, 1), prompts=["caption 0", "caption 9"])
    with pytest.raises(ValueError, match=r"`prompts\[0\]` is empty"):
        metric.update(images=flat(0), prompts=" ")
    with pytest.raises(TypeError, match="needs `prompts="):
        metric.update(images=flat(0))
    assert metric.records() == []


@pytest.mark.parametrize(
    ("questions", "kwargs", "error", "match"),
    [
        ([], {}, UnreadableQuestions, "at least one TifaQuestion"),
        ([{"id": "c"}], {}, TypeError, r"`questions\[0\]` must be a TifaQuestion, got dict"),
        (7, {}, TypeError, "`questions` must be a file or a list of TifaQuestion, got int"),
        ([made(0, answer="blue")], {}, UnreadableQuestions, "must have one of its choices as its answer, got 'blue'"),
        ([made(0)], {"matching": "sbert"}, UnknownName, "`matching` must be one of 'choices', 'free'"),
        ("nowhere.json", {}, FileNotFoundError, "nowhere.json"),
    ],
)
def test_what_is_no_benchmark(questions: Any, kwargs: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        TIFA(questions, ScriptedJudge(lambda q: "no"), **kwargs)


# Files, resumption, ranks, suites


def test_questions_from_a_file(tmp_path: Path) -> None:
    questions = [made(0, 2, caption=ODD), made(0, 3, caption=ODD), made(1, 2)]
    write_tifa(tmp_path / "own.json", questions)
    assert read_tifa(tmp_path / "own.json") == questions
    assert json.loads((tmp_path / "own.json").read_text("utf-8"))[0]["choices"] == list(CHOICES)
    signatures = set()
    for given_as in (questions, str(tmp_path / "own.json"), tmp_path / "own.json"):
        metric = TIFA(given_as, ScriptedJudge(lambda q: "yes"))
        metric.update(images=flat(0, 1), prompts=metric.prompts)
        assert float(metric.compute()) == 0.75
        signatures.add(metric.result().signature)
    assert len(signatures) == 1
    other = TIFA(questions[:2], ScriptedJudge(lambda q: "yes"))
    assert str(other.signature()) not in signatures


def test_a_run_that_goes_on_asks_nothing_twice() -> None:
    questions, answers = world_of(3)
    first, second = scripted(answers, "kept"), scripted({}, "kept")
    values = []
    for judge in (first, second):
        known = {key: x for key, x in answers.items() if x is not None}
        kept = [q for q in questions if (int(q.id[2:]), q.question) in known]
        metric = TIFA(kept, judge)
        metric.update(images=flat(*(int(name[2:]) for name in metric.items)), prompts=metric.prompts)
        values.append(float(metric.compute()))
    assert values[0] == values[1]
    assert first.asked
    assert second.asked == []


def test_in_a_suite_saved_and_merged(tmp_path: Path) -> None:
    questions, answers = world_of(11, 6)
    whole = TIFA(questions, scripted(answers), max_failed=1.0)
    whole.update(images=flat(*range(6)), prompts=whole.prompts, ids=range(6))
    for part in ([0, 3, 4], [1, 2, 5]):
        suite = MetricSuite([TIFA(questions, scripted(answers), max_failed=1.0)])
        suite.update(flat(*part), prompts=[f"caption {i}" for i in part], ids=part)
        suite.save(tmp_path / f"{part[0]}.safetensors")
    joined = MetricSuite([TIFA(questions, scripted({}), max_failed=1.0)])
    joined.load(tmp_path / "0.safetensors")
    joined.merge(tmp_path / "1.safetensors")
    assert joined.results()["tifa"].value == whole.result().value
    assert joined["tifa"].categories() == whole.categories()
    joined.reset_all()
    assert joined["tifa"].categories() == {}


@pytest.mark.parametrize(("said", "value"), [("dark red", 0.25), ("I will not tell", None)])
def test_a_checkpoint_as_the_judge(said: str, value: float | None, tmp_path: Path) -> None:
    metric = TIFA([made(0, j) for j in range(4)], LocalJudge(qwen2_vl(tmp_path, said), dtype="float32", batch_size=4))
    metric.update(images=torch.zeros(1, 3, 28, 56), prompts="caption 0")
    if value is None:
        with pytest.raises(JudgeFailed, match="I will not tell"):
            metric.compute()
    else:
        assert float(metric.compute()) == value


# Questions of one's own

LAYOUT = """s: dog, hat
Activities:
Questions and answers are below:
About dog (animal):
Q: is there a dog?
Choices: yes, no
A: yes
Q: what animal is there?
Choices: dog, cat, bird
A: dog
About hat (clothing):
Q: is there a hat?
Choices: yes, no
A: yes
About red (color):
Q: what color is the hat?
Choices: red, blue
A: red
Q: which one?
Choices: blue
A: red
"""


def writer(q: Question) -> str:
    """Writes the same questions about every caption, and reads captions badly where it comes to colors."""
    told = texts_of(q)
    if "Question: " not in told:
        return "I write no questions" if "boring" in told else LAYOUT
    asked = asked_of(q)
    if "color" in asked:
        return "blue"
    return (
        ("yes" if "is there" in asked else "dog") if "Choices" in told else "it is a dog" if "what" in asked else "no"
    )


@pytest.mark.filterwarnings("ignore:the prompt tifa-few-shot")
def test_questions_are_written_and_checked(tmp_path: Path) -> None:
    judge = ScriptedJudge(writer)
    found = generate_questions({"a": f"a dog {ODD}", "b": "boring", "c": "a dog"}, judge)
    assert [(q.id, q.question, q.answer, q.element_type, q.element) for q in found.questions] == [
        (name, question, answer, "animal/human", "dog")
        for name in "ac"
        for question, answer in (("is there a dog?", "yes"), ("what animal is there?", "dog"))
        if question == "is there a dog?"
    ]
    assert found.questions[0].caption == f"a dog {ODD}"
    assert found.failed == {"b": "unreadable answer: 'I write no questions'"}
    assert (found.n_malformed, found.n_other_type, found.n_rejected) == (2, 2, 4)
    assert all(not question.images for question in judge.asked)
    write_tifa(tmp_path / "tifa.json", found.questions)
    metric = TIFA(tmp_path / "tifa.json", ScriptedJudge(lambda q: "yes"))
    assert metric.prompts == [q.caption for q in found.questions]
    assert generate_questions(["a dog"], ScriptedJudge(writer)).questions[0].id == "0"


@pytest.mark.filterwarnings("ignore:the prompt tifa-few-shot")
@pytest.mark.parametrize(
    ("captions", "error", "match"),
    [
        (["boring"], JudgeFailed, r"none of 1 captions got a question: unreadable answer.*\(1x\)"),
        ("a dog", TypeError, "got one text"),
        ([], ValueError, "at least one text"),
        ({"a": " "}, ValueError, "not blank, got 'a': ' '"),
        ([7], ValueError, "not blank, got '0': 7"),
    ],
)
def test_captions_without_questions(captions: Any, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        generate_questions(captions, ScriptedJudge(writer))


@pytest.mark.filterwarnings("ignore:the prompt tifa-few-shot")
def test_judges_answer_where_there_is_no_image(tmp_path: Path) -> None:
    """A checkpoint that says "yes" to all confirms nothing that it did not write; one that writes, is read."""
    block = "About dog (animal):\nQ: is there a dog?\nChoices: yes, no\nA: yes"
    judge = LocalJudge(qwen2_vl(tmp_path, block), dtype="float32", batch_size=2)
    with pytest.raises(JudgeFailed, match=r"no question was confirmed \(2x\)"):
        generate_questions(["a dog", "a cat"], judge)
    asked = ScriptedJudge(writer)
    generate_questions(["a dog"], asked)
    messages = chat_messages(asked.asked[0], "png")
    assert [type(message["content"]) for message in messages] == [str]


def test_copies_and_limits() -> None:
    questions, answers = world_of(11, 6)
    metric = TIFA(questions, scripted(answers), max_failed=1.0, limit=4)
    metric.update(images=flat(*range(6)), prompts=metric.prompts, ids=range(6))
    assert len(metric.records()) == 4
    assert set(metric.missing()) == set()  # until something was computed
    value = metric.compute()
    assert set(metric.missing()) >= {"c_4", "c_5"}
    for copy in (metric.clone(), pickle.loads(pickle.dumps(TIFA(questions, "no/judge")))):
        assert copy.items == metric.items
    assert metric.clone().compute() == value
    with pytest.raises(TypeError, match="`limit`: it needs `ids=`"):
        metric.update(images=flat(0), prompts="caption 0")
