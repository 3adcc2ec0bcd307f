"""A judge against people: simulated ones whose agreement is known, files of ratings, and input that is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.judges import ScriptedJudge
from scipy.stats import kendalltau, pearsonr, spearmanr
from sklearn.metrics import cohen_kappa_score
from torch import Tensor

from lightning_imgmetrics.data.ratings import Rating, read_ratings
from lightning_imgmetrics.errors import IncompatibleStates, NotEnoughSamples, ShapeError, UnknownName, ValueRangeError
from lightning_imgmetrics.functional.agreement import krippendorff_alpha
from lightning_imgmetrics.judges.backends.question import Question
from lightning_imgmetrics.judges.calibration.judge_calibration import JudgeCalibration
from lightning_imgmetrics.judges.calibration.record import Calibration
from lightning_imgmetrics.judges.metrics.rubric import RubricJudge
from lightning_imgmetrics.judges.metrics.unified_reward import UnifiedReward
from lightning_imgmetrics.judges.metrics.unified_reward_edit import UnifiedRewardEdit
from lightning_imgmetrics.judges.metrics.vie_score import VIEScore
from lightning_imgmetrics.judges.metrics.vqa_score import VQAScore
from lightning_imgmetrics.metrics.base.score_metric import ScoreMetric
from lightning_imgmetrics.metrics.base.summary import Column
from lightning_imgmetrics.metrics.human.win_rate import WinRate
from lightning_imgmetrics.result import Signature

measure = JudgeCalibration.measure


class Judge(ScoreMetric):
    """Scores by id as they are given."""

    name = "judge"

    def columns(self) -> tuple[Column, ...]:
        return (*super().columns(), Column("style"))

    def update(self, scores: Tensor, ids: list[int] | None = None) -> None:
        self.stage({"scores": scores}, ids=ids)()

    def scores_of(self, features: Any, **inputs: Any) -> Tensor:
        return features["scores"]


def judge(scores: dict[int, float], style: dict[int, float] | None = None, with_ids: bool = True) -> Judge:
    metric = Judge()
    rows = torch.tensor([[x, (style or scores)[i]] for i, x in scores.items()], dtype=torch.float64)
    metric.update(rows, list(scores) if with_ids else None)
    return metric


def panel(n: int = 60, seed: int = 0, raters: int = 3) -> tuple[dict[int, float], dict[int, list[float]]]:
    """Scores in [1, 5] and ratings 1..5 of the same quality, by id."""
    random = np.random.default_rng(seed)
    quality = random.normal(3, 1, n)
    ratings = np.clip(np.rint(quality[:, None] + random.normal(0, 0.7, (n, raters))), 1, 5)
    scores = np.clip(quality + random.normal(0, 0.8, n), 1, 5)
    return dict(enumerate(scores.tolist())), dict(enumerate(ratings.tolist()))


def test_values_are_those_of_the_references() -> None:
    scores, ratings = panel()
    result = measure(scores, ratings, scale=(1, 5), judge_scale=(1, 5), resamples=50)["overall"]
    x, means = list(scores.values()), [sum(r) / 3 for r in ratings.values()]
    assert result.spearman.value == pytest.approx(spearmanr(x, means).statistic, abs=1e-12)
    assert result.kendall.value == pytest.approx(kendalltau(x, means).statistic, abs=1e-12)
    assert result.pearson.value == pytest.approx(pearsonr(x, means).statistic, abs=1e-12)
    singles = [r for given in ratings.values() for r in given]
    rounded = [round(s) for s in x for _ in range(3)]
    expected = cohen_kappa_score(rounded, np.array(singles, int), weights="quadratic", labels=[1, 2, 3, 4, 5])
    assert result.kappa.value == pytest.approx(expected, abs=1e-12)
    assert result.alpha.value == pytest.approx(krippendorff_alpha([rounded, singles], "ordinal"), abs=1e-12)
    people = krippendorff_alpha(np.array(list(ratings.values())).T, "ordinal")
    assert result.alpha_people.value == pytest.approx(people, abs=1e-12)
    assert (result.n, result.n_ratings) == (60, 180)
    for name, estimate in result.estimates().items():
        assert estimate.interval is not None, name
        assert estimate.interval[0] < estimate.value < estimate.interval[1], name


@pytest.mark.slow
def test_intervals_cover_the_truth() -> None:
    """Of a bivariate normal all four are known: Kendall's tau is 2 / pi asin(rho), and so on."""
    rho, hits, times = 0.6, dict.fromkeys(("pearson", "spearman", "kendall", "pairwise_accuracy"), 0), 50
    tau = 2 / math.pi * math.asin(rho)
    truth = (rho, 6 / math.pi * math.asin(rho / 2), tau, (1 + tau) / 2)
    random = np.random.default_rng(5)
    for seed in range(times):
        x, y = random.multivariate_normal([0, 0], [[1, rho], [rho, 1]], 60).T
        result = measure(dict(enumerate(x)), dict(enumerate(y)), resamples=80, seed=seed)["overall"]
        for name, value in zip(hits, truth, strict=True):
            low, high = result.estimates()[name].interval or (0, 0)
            hits[name] += low <= value <= high
    assert all(0.85 <= hit / times <= 1 for hit in hits.values()), hits
    assert 0.88 <= sum(hits.values()) / len(hits) / times <= 0.99, hits


def test_samples_of_one_prompt_widen_the_interval() -> None:
    """Ten equal copies of each sample say no more than one: their prompt is what is drawn."""
    scores, ratings = panel(30)
    copied, rated = ({10 * i + k: x for i, x in of.items() for k in range(10)} for of in (scores, ratings))
    prompts = {i: f"prompt {i // 10}" for i in copied}
    once = measure(scores, ratings, scale=(1, 5), judge_scale=(1, 5), resamples=150)["overall"]
    grouped = measure(copied, rated, groups=prompts, scale=(1, 5), judge_scale=(1, 5), resamples=150)["overall"]
    naive = measure(copied, rated, scale=(1, 5), judge_scale=(1, 5), resamples=100)["overall"]
    for name in ("spearman", "pearson", "kappa"):
        a, b, c = (x.estimates()[name] for x in (once, grouped, naive))
        assert a.value == pytest.approx(b.value, abs=1e-9)
        assert a.interval == pytest.approx(b.interval, abs=1e-9)
        assert c.interval[1] - c.interval[0] < 0.5 * (b.interval[1] - b.interval[0])
    assert grouped.pairwise_accuracy.value is None
    assert grouped.pairwise_accuracy.reason == "no two samples of a prompt differ in their mean rating"


def test_pairs_are_those_of_a_prompt() -> None:
    scores = {0: 1.0, 1: 2.0, 2: 11.0, 3: 12.0, 4: 5.0}
    ratings = {0: 8, 1: 9, 2: 1, 3: 2, 4: 2}
    prompts = {0: "x", 1: "x", 2: "y", 3: "y", 4: "y", 99: "z"}
    assert measure(scores, ratings, groups=prompts, resamples=20)["overall"].pairwise_accuracy.value == 2 / 3
    with pytest.raises(ValueRangeError, match="`groups` must hold every rated id, 1 are missing: 4"):
        measure(scores, ratings, groups=dict.fromkeys(range(4), "x"))
    one = measure(scores, ratings, groups=dict.fromkeys(range(5), "x"))["overall"].spearman
    assert (one.interval, one.reason) == (None, "no interval: one prompt shows no spread")


def test_what_is_left_out_is_counted() -> None:
    scores, ratings = panel(12)
    failed = {**scores, 0: math.nan, 1: None, 100: 3.0, 101: math.nan}
    result = measure(failed, {**ratings, 200: [1]}, resamples=50)
    c = result["overall"]
    assert (c.n, c.n_failed, c.n_unscored, c.n_unrated) == (10, 2, 1, 2)
    expected = measure({i: scores[i] for i in range(2, 12)}, ratings, resamples=50)["overall"]
    assert c.estimates() == expected.estimates()
    assert "2 left out as the judge failed, 1 left out as it has no score, 2 left out as nobody rated it" in str(result)


UNDEFINED: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"scores": dict.fromkeys(range(9), 3)}, {"spearman": "all scores are equal", "pearson": "all scores are equal"}),
    (
        {"ratings": dict.fromkeys(range(9), 3)},
        {"kendall": "all mean ratings are equal", "pairwise_accuracy": "all mean ratings are equal"},
    ),
    ({"ratings": {i: i % 3 for i in range(9)}}, {"alpha_people": "no sample has two ratings"}),
    ({"ratings": {i: [2, 2] for i in range(9)}}, {"alpha_people": "all ratings are equal"}),
    ({}, {"kappa": "no scale was declared", "alpha": "no scale was declared"}),
    ({"scale": (0, 5)}, {"kappa": "the judge's scores leave the scale (0, 5)"}),
    (
        {"scale": (0, 9), "judge_scale": (0, 1), "scores": {i: 0.6 + i / 30 for i in range(9)}},
        dict.fromkeys(("kappa", "alpha"), "the judge scores 0 to 1, people 0 to 9"),
    ),
    (
        {"scale": (0, 9), "scores": {i: 0.6 + i / 30 for i in range(9)}},
        dict.fromkeys(("kappa", "alpha"), "the judge's scores are no whole numbers, and their scale is not known"),
    ),
    ({"scale": (0, 9), "ratings": {i: i + 0.5 for i in range(9)}}, {"alpha": "the ratings are no whole numbers"}),
    ({"scale": (0, 1000)}, {"kappa": "the scale (0, 1000) has more than 101 steps"}),
    (
        {"scale": (0, 9), "scores": dict.fromkeys(range(9), 3), "ratings": dict.fromkeys(range(9), 3)},
        {"kappa": "judge and people gave one label to all"},
    ),
]


@pytest.mark.parametrize(("arguments", "reasons"), UNDEFINED)
def test_what_is_undefined_says_why(arguments: dict[str, Any], reasons: dict[str, str]) -> None:
    given = {"scores": {i: i for i in range(9)}, "ratings": {i: i // 2 for i in range(9)}, "resamples": 20, **arguments}
    result = measure(**given)
    for name, reason in reasons.items():
        estimate = result["overall"].estimates()[name]
        assert (estimate.value, estimate.interval, estimate.reason) == (None, None, reason)
    assert Calibration.from_json(result.to_json()) == result
    assert next(iter(reasons.values())) in str(result)


def test_an_interval_that_few_samples_leave_undefined() -> None:
    result = measure({0: 1, 1: 2, 2: 3}, {0: 1, 1: 2, 2: 2}, resamples=200)["overall"].spearman
    assert result.value == pytest.approx(spearmanr([1, 2, 3], [1, 2, 2]).statistic)
    assert result.interval is None
    assert result.reason == f"no interval: {result.n_undefined} of 200 resamples leave it undefined"
    assert result.n_undefined / 200 == pytest.approx((1 + 8) / 27, abs=0.1)  # all of the first, or none of it
    assert str(result) == "0.87"


def test_criteria_are_matched_by_name_and_others_are_listed() -> None:
    first, second = panel(20), panel(20, seed=1)
    result = measure(
        {"style": first[0], "content": second[0], "speed": first[0]},
        {"content": second[1], "style": first[1], "humour": first[1]},
        resamples=30,
    )
    assert list(result.criteria) == ["content", "style"]
    assert result.unmatched == ("humour", "speed")
    assert "not compared: humour, speed" in str(result)
    assert result["style"] == measure(*first, resamples=30)["overall"]
    by_name = measure(first[0], {"style": first[1]}, resamples=30)  # scores that name no criterion fit the only one
    assert by_name["style"] == result["style"]
    assert list(measure({"style": first[0]}, first[1], resamples=30).criteria) == ["style"]
    with pytest.raises(UnknownName, match="`scores` must be one of 'style', 'content'; got 'overall'"):
        measure(first[0], {"style": first[1], "content": second[1]})


def test_citation_and_files_of_results() -> None:
    scores, ratings = panel()
    result = measure(scores, ratings, scale=(1, 5), resamples=50)
    spearman = result["overall"].spearman
    low, high = spearman.interval or (0, 0)
    digest = result.ratings_sha256[:8]
    text = f"spearman={spearman.value:.2f}[{low:.2f},{high:.2f}],n=60,ratings={digest}"
    assert result.citation() == f"calibrated:{text}"
    assert Signature.parse(f"metric:judge|{result.citation()}").fields == {"metric": "judge", "calibrated": text}
    again = Calibration.from_json(result.to_json())
    assert again == result
    assert (again.citation(), str(again)) == (result.citation(), str(result))
    two = measure({"a|b": scores, "c": scores}, {"a|b": ratings, "c": ratings}, resamples=20).citation()
    cited = Signature.parse(two).fields["calibrated"]
    assert cited.startswith("a|b.spearman=")
    assert ",n=60;c.spearman=" in cited
    for text in ("{}", "[]", "no", '{"criteria": {"a": {"n": 3}}}'):
        with pytest.raises(IncompatibleStates, match="`to_json`"):
            Calibration.from_json(text)


def test_the_digest_is_that_of_the_ratings_alone() -> None:
    scores, ratings = panel(10)
    digest = measure(scores, ratings, resamples=2).ratings_sha256
    shuffled = {i: ratings[i][::-1] for i in sorted(ratings, reverse=True)}
    assert measure({**scores, 0: math.nan}, shuffled, seed=1, resamples=2).ratings_sha256 == digest
    assert measure(scores, {**ratings, 0: [1, 1, 1]}, resamples=2).ratings_sha256 != digest


def test_order_and_seed() -> None:
    scores, ratings = panel(30)
    groups = {i: i % 7 for i in range(30)}
    result = measure(scores, ratings, groups=groups, scale=(1, 5), resamples=30)
    backwards = ({i: of[i] for i in sorted(of, reverse=True)} for of in (scores, ratings))
    names = {i: f"prompt {-x}" for i, x in groups.items()}
    assert measure(*backwards, groups=names, scale=(1, 5), resamples=30) == result
    other = measure(scores, ratings, groups=groups, scale=(1, 5), resamples=30, seed=1)
    assert other["overall"].spearman.value == result["overall"].spearman.value
    assert other["overall"].spearman.interval != result["overall"].spearman.interval


def test_table_for_people() -> None:
    lines = str(measure({0: 1, 1: 2, 2: 3, 3: 4}, {0: 1, 1: 3, 2: 2, 3: 4}, resamples=100, confidence=0.8)).split("\n")
    assert lines[0].split("  ")[0] == "criterion"
    assert "80 % interval" in lines[0]
    assert len(lines) == 8
    assert lines[1].split()[:3] == ["overall", "spearman", "0.800"]
    assert lines[4].split()[:4] == ["overall", "pairwise", "accuracy", "0.833"]


def write(path: Path, text: str) -> Path:
    path.write_bytes(text.encode())
    return path


def as_csv(path: Path, ratings: dict[int, list[float]], prompts: Callable[[int], str]) -> Path:
    rows = [f'{i},{x:g},r{k},"{prompts(i)}"' for i, given in ratings.items() for k, x in enumerate(given)]
    return write(path, "\n".join(["id,rating,rater,prompt", *rows]))


def test_a_metric_against_a_file(tmp_path: Path) -> None:
    scores, ratings = panel(24)
    scores[5] = math.nan
    path = as_csv(tmp_path / "ratings.csv", ratings, lambda i: f"a cat, no. {i // 3}")
    result = JudgeCalibration(judge(scores), path, scale=(1, 5), resamples=40, seed=2).compute()
    expected = measure(scores, ratings, groups={i: i // 3 for i in range(24)}, scale=(1, 5), resamples=40, seed=2)
    assert result == expected
    assert result["overall"].n_failed == 1
    own = JudgeCalibration(judge(scores), path, groups={i: i for i in range(24)}, resamples=40).compute()
    assert own["overall"].estimates() == measure(scores, ratings, resamples=40)["overall"].estimates() | {
        "pairwise_accuracy": own["overall"].pairwise_accuracy
    }


def test_criteria_of_a_metric_are_its_columns(tmp_path: Path) -> None:
    (scores, ratings), (style, style_ratings) = panel(20), panel(20, seed=1)
    rows = [
        {"id": i, "rating": x, "rater": k, "criterion": name}
        for name, of in (("judge", ratings), ("style", style_ratings), ("humour", ratings))
        for i, given in of.items()
        for k, x in enumerate(given)
    ]
    path = write(tmp_path / "ratings.jsonl", "\n".join(map(json.dumps, rows)))
    result = JudgeCalibration(judge(scores, style), path, resamples=20).compute()
    assert result["judge"] == measure(scores, ratings, resamples=20)["overall"]
    assert result["style"] == measure(style, style_ratings, resamples=20)["overall"]
    assert result.unmatched == ("humour",)
    metric = judge(scores, style)
    metric.row = (Column("overall"),)  # what names no criterion is compared with the score of the metric all the same
    plain = as_csv(tmp_path / "plain.csv", ratings, str)
    for same in (ratings, plain):
        calibration = JudgeCalibration(metric, same, groups={i: i for i in ratings}, resamples=20).compute()
        assert calibration["overall"].spearman == result["judge"].spearman


def graded(rubric: Any, levels: dict[int, float]) -> RubricJudge:
    metric = RubricJudge(ScriptedJudge(lambda q: json.dumps({"reasoning": "so", "score": levels[of_image(q)]})), rubric)
    images = torch.stack([torch.full((3, 8, 8), i, dtype=torch.uint8) for i in levels])
    metric.update(images=images, prompts="p", ids=list(levels))
    return metric


def of_image(question: Question) -> int:
    return int(question.images[0][0, 0, 0])


def test_a_judge_on_a_scale_of_its_own_is_not_rounded_to_that_of_people() -> None:
    rubric = {"criteria": [{"name": "appeal", "question": "Does it please?", "scale": [1, 5]}]}
    levels = {i: 4 + i / 20 for i in range(12)}
    metric = graded(rubric, levels)
    ratings = {i: 1 + i // 3 for i in range(12)}
    result = JudgeCalibration(metric, ratings, scale=(1, 5), resamples=20).compute()["overall"]
    assert result.spearman.value is not None
    for estimate in (result.kappa, result.alpha):
        assert (estimate.value, estimate.reason) == (None, "the judge scores 0 to 1, people 1 to 5")
    on_its_own = JudgeCalibration(metric, {"appeal": ratings}, scale=(1, 5), resamples=20).compute()["appeal"]
    expected = measure(levels, ratings, scale=(1, 5), judge_scale=(1, 5), resamples=20)["overall"]
    assert on_its_own == expected
    assert on_its_own.kappa.value is not None


@pytest.mark.parametrize(
    ("make", "own", "columns"),
    [
        (lambda: VQAScore(ScriptedJudge()), (0, 1), {}),
        (lambda: VIEScore(ScriptedJudge()), (0, 10), {"sc": (0, 10), "naturalness": (0, 10), "not_applicable": None}),
        (lambda: UnifiedReward(ScriptedJudge()), (1, 5), {"style": (1, 5), "unparsed": None}),
        (lambda: UnifiedReward(ScriptedJudge(), mode="pairwise"), (0, 1), {"style": (0, 1)}),
        (lambda: UnifiedRewardEdit(ScriptedJudge()), (0, 25), {"overediting": (0, 25)}),
        (lambda: UnifiedRewardEdit(ScriptedJudge(), mode="pairwise_score"), (0, 1), {"margin": None}),
        (lambda: RubricJudge(ScriptedJudge()), (0, 1), {"appeal": (1, 5), "not_applicable": None}),
        (Judge, None, {"style": None}),
    ],
)
def test_ranges_of_scores(make: Callable[[], ScoreMetric], own: Any, columns: dict[str, Any]) -> None:
    metric = make()
    assert metric.range_of(metric.name) == own
    assert {name: metric.range_of(name) for name in columns} == columns


def test_criteria_that_the_judge_lacks_are_refused() -> None:
    metric, ratings = judge({0: 1.0, 1: 2.0, 2: 3.0}), {0: 1, 1: 2, 2: 3}
    with pytest.raises(UnknownName, match="`ratings` must be one of 'style', 'judge', 'overall'; got 'stile'"):
        JudgeCalibration(metric, {"stile": ratings}, resamples=20).compute()
    for name in ("style", "judge", "overall"):
        assert list(JudgeCalibration(metric, {name: ratings}, resamples=20).compute().criteria) == [name]


def test_rows_of_ratings(tmp_path: Path) -> None:
    table = write(
        tmp_path / "a.csv",
        '\ufeffID, Rating ,note,rater,prompt\r\n3,4.5,,Ann,"a cat, wet"\r\n\r\n-1,-2e0,x, Bo ,\u6728\r\n7.0,3,,C,c\r\n',
    )
    assert read_ratings(table) == [
        Rating(3, 4.5, "Ann", None, "a cat, wet"),
        Rating(-1, -2.0, "Bo", None, "\u6728"),
        Rating(7, 3.0, "C", None, "c"),
    ]
    lines = write(
        tmp_path / "a.jsonl", '{"id": 1, "rating": 2, "rater": 7}\n\n{"id": "1", "rating": "3", "rater": 8}\n'
    )
    assert read_ratings(str(lines)) == [Rating(1, 2.0, "7"), Rating(1, 3.0, "8")]


BAD_FILES = [
    ("a.csv", "id,rating\n1,3\n2,good\n", ValueRangeError, r"a\.csv, line 3, column 'rating': .* number, got 'good'"),
    ("a.csv", "id,rating\n1,3\n2\n", ValueRangeError, "line 3, column 'rating': must be a finite number, got None"),
    ("a.csv", "id,rating\n1,nan\n", ValueRangeError, "line 2, column 'rating': .*got 'nan'"),
    ("a.csv", "id,rating\n1,1_0\n", ValueRangeError, "line 2, column 'rating': .*got '1_0'"),
    ("a.csv", "id,rating\n1.5,3\n", ValueRangeError, "line 2, column 'id': must be an integer, got '1.5'"),
    ("a.csv", "id,rating\nx.png,3\n", ValueRangeError, "line 2, column 'id': must be an integer, got 'x.png'"),
    ("a.csv", "id,score\n1,3\n", ShapeError, "line 2: no column 'rating', got 'id', 'score'"),
    ("a.csv", "id,rating,Id\n1,3,4\n", ShapeError, "line 1: several columns are called 'id'"),
    ("a.csv", "id,rating,prompt\n1,3,a cat, wet\n", ShapeError, "line 2: more cells than the header"),
    ("a.csv", "id,rating\n1,3\n2,3\n1,4\n", ShapeError, 'line 4: id 1 was rated on line 2 already; name .* "rater"'),
    ("a.csv", "id,rating,rater\n1,3,A\n1,4,A\n", ShapeError, "line 3: id 1 was rated on line 2 already$"),
    ("a.csv", "id,rating,rater\n1,3,A\n2,4,\n", ShapeError, "line 3, column 'rater': is empty"),
    ("a.csv", "id,rating,rater,prompt\n1,3,A,x\n1,4,B,y\n", ShapeError, "line 3, column 'prompt': id 1 has another"),
    ("a.csv", "id,rating\n", ShapeError, "holds no rating"),
    ("a.jsonl", '{"id": 1, "rating": true}', ValueRangeError, "line 1, column 'rating': .*got True"),
    ("a.jsonl", '{"id": 1, "rating": 1e999}', ValueRangeError, "column 'rating': .*got inf"),
    ("a.jsonl", '{"id": 9007199254740993, "rating": 1}', ValueRangeError, "column 'id': must be an integer"),
    ("a.jsonl", '\n{"id": 1', ShapeError, r"a\.jsonl, line 2: not JSON"),
    ("a.jsonl", "[1, 2]", ShapeError, r"line 1: must be an object, got \[1, 2\]"),
    ("a.txt", "1 2", ShapeError, r"a\.txt must be a \.csv or \.jsonl file"),
]


@pytest.mark.parametrize(("name", "text", "error", "message"), BAD_FILES)
def test_files_that_are_refused(tmp_path: Path, name: str, text: str, error: type[Exception], message: str) -> None:
    path = write(tmp_path / name, text)
    with pytest.raises(error, match=message):
        JudgeCalibration(judge({0: 1.0, 1: 2.0, 2: 3.0}), path)


def test_files_that_are_not_text(tmp_path: Path) -> None:
    for name in ("a.csv", "a.jsonl"):
        (tmp_path / name).write_bytes(b'id,rating\n1,3\n{"\xff')
        with pytest.raises(ShapeError, match="must be UTF-8 text" if name == "a.csv" else "must be UTF-8|not JSON"):
            read_ratings(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_ratings(tmp_path / "b.csv")


GOOD = {0: 1, 1: 2, 2: 3}
BAD_INPUT: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
    ({7: 1, 8: 2}, GOOD, {}, NotEnoughSamples, r"'overall' has 0 samples and needs 3.*2 were scored \(7, 8"),
    ({0: 1, 1: math.nan, 2: 3}, GOOD, {}, NotEnoughSamples, "2 samples.* of 3 with both the judge failed on 1"),
    ({}, GOOD, {}, NotEnoughSamples, "`scores` has 0"),
    (GOOD, {}, {}, NotEnoughSamples, "`ratings` has 0"),
    (GOOD, {**GOOD, 1: [2, 6]}, {"scale": (1, 5)}, ValueRangeError, r"of id 1 by 'overall' lies outside .*\[1, 5\]"),
    (GOOD, {**GOOD, 1: math.nan}, {}, ValueRangeError, "a rating of id 1 by 'overall' must be a finite number"),
    (GOOD, {**GOOD, 1: "5"}, {}, ValueRangeError, "must be a finite number, got '5'"),
    (GOOD, {**GOOD, 1: None}, {}, ValueRangeError, "must be a finite number, got None"),
    (GOOD, {**GOOD, 1: []}, {}, ValueRangeError, "at least one rating of each id, got none of id 1"),
    ({**GOOD, 1: math.inf}, GOOD, {}, ValueRangeError, "the score of id 1 by 'overall' must be a finite number"),
    ({**GOOD, "a": 1}, GOOD, {}, ValueRangeError, "ids in `scores` must be integers, got 'a'"),
    (GOOD, {"0": 1, "1": 2}, {}, ValueRangeError, "ids in `ratings` must be integers, got '0'"),
    ({**GOOD, "a": {}}, GOOD, {}, ValueRangeError, "`scores` must be a mapping of ids, or one by criterion"),
    ([1, 2, 3], GOOD, {}, TypeError, "`scores` must be a mapping of ids, got list"),
    (GOOD, GOOD, {"scale": (5, 1)}, ValueRangeError, "`scale` must be"),
    (GOOD, GOOD, {"judge_scale": (1, 1)}, ValueRangeError, "`judge_scale` must be"),
    (GOOD, GOOD, {"confidence": 95}, ValueRangeError, "`confidence`"),
    (GOOD, GOOD, {"resamples": 0}, ValueRangeError, "`resamples`"),
    ({"a": GOOD}, {"b": GOOD}, {}, UnknownName, "`scores` must be one of 'b'; got 'a'"),
]


@pytest.mark.parametrize(("scores", "ratings", "options", "error", "message"), BAD_INPUT)
def test_refusals(scores: Any, ratings: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        measure(scores, ratings, **options)


def test_metrics_that_are_refused() -> None:
    with pytest.raises(TypeError, match="`judge` must be a score of single samples, got WinRate"):
        JudgeCalibration(WinRate(), GOOD)  # type: ignore[arg-type]
    with pytest.raises(ValueRangeError, match="`judge` has 3 samples that came without ids"):
        JudgeCalibration(judge({0: 1.0, 1: 2.0, 2: 3.0}, with_ids=False), GOOD).compute()
