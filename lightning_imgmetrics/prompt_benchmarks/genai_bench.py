"""GenAI-Bench: VQAScore of images of compositional prompts, by the skills that a prompt needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.clip_flant5 import CLIP_FLANT5
from lightning_imgmetrics.judges.metrics.queries import Ask, Sample, Verdict
from lightning_imgmetrics.judges.metrics.vqa_score import VQAScore
from lightning_imgmetrics.prompt_benchmarks.base.benchmark_metric import BenchmarkMetric
from lightning_imgmetrics.prompt_benchmarks.base.group_scores import GENAI_ADVANCED, GENAI_BASIC
from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import GenAiPrompts, read_genai


class GenAiItem(NamedTuple):
    """A prompt, and the skills and groups of skills that it counts for."""

    prompt: str
    tags: tuple[str, ...]


class GenAIBench(BenchmarkMetric[GenAiItem], VQAScore):
    """Mean VQAScore, in [0, 1], of images made from the prompts of GenAI-Bench.

    `questions` and `skills`: the public genai_image.json and genai_skills.json; or `questions` alone, what `read_genai`
    made of them. `categories`: means over the images of prompts that need a skill, and of "basic", "advanced" and "all"
    prompts. Where the file does not say so itself, a prompt with an advanced skill is advanced, and one with basic
    skills alone basic. Images of prompts without a skill are passed over. `judge`, `question` and others: see
    `VQAScore`. Source: Li et al. 2024.
    """

    name: ClassVar[str] = "genai_bench"

    def __init__(
        self,
        questions: str | Path | GenAiPrompts,
        judge: Judge | str = CLIP_FLANT5,
        *,
        skills: str | Path | None = None,
        **kwargs: Any,
    ):
        if isinstance(questions, GenAiPrompts) == (skills is not None):
            raise TypeError(
                "`questions` and `skills` must be two files, or `questions` alone what `read_genai` made of them"
            )
        bench = questions if isinstance(questions, GenAiPrompts) else read_genai(questions, str(skills))
        tags = genai_tags(bench.skills)
        items = {
            name: GenAiItem(text, tuple(tag for tag, names in tags.items() if name in names))
            for name, text in bench.prompts.items()
            if name in tags["all"]
        }
        content = [[name, *item] for name, item in items.items()]
        super().__init__(items, judge, texts=bench.prompts, kinds=[*tags], content=content, **kwargs)

    def asks(self, sample: Sample) -> Sequence[Ask]:
        return super().asks(replace(sample, prompt=self.item_of(sample).prompt))

    def conclude(self, sample: Sample, readings: Sequence[Any]) -> Verdict:
        item = self.item_of(sample)
        row = {"question": self.question.replace("{}", item.prompt), "category": ", ".join(item.tags)}
        return Verdict(readings[0], rows=[{**row, "expected": self.answer, "score": readings[0]}])

    def counted_rows(self, record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The one answer, for each tag of its item."""
        return [{**row, "category": tag} for row in record["rows"] for tag in self.items[record["item"]].tags]


def genai_tags(skills: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    """Ids of prompts by skill, and those of "basic", "advanced" and "all" of them."""
    advanced = frozenset(name for skill in GENAI_ADVANCED for name in skills.get(skill, ()))
    basic = frozenset(name for skill in GENAI_BASIC for name in skills.get(skill, ())) - advanced
    tags = {"basic": basic, "advanced": advanced} | {skill: frozenset(names) for skill, names in skills.items()}
    return {**tags, "all": frozenset().union(*tags.values())}
