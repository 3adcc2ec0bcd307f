"""GenAI-Bench: VQAScore of images of compositional prompts, by the skills that a prompt needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from torch import Tensor

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.clip_flant5 import CLIP_FLANT5
from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.judges.backends.resolve import as_judge
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.judges.metrics.vqa_question import VQAQuestion, refuse_sampling
from lightning_imgmetrics.judges.metrics.vqa_score import similarity
from lightning_imgmetrics.prompt_benchmarks.base.benchmark_metric import BenchmarkMetric
from lightning_imgmetrics.prompt_benchmarks.base.group_scores import GENAI_ADVANCED, GENAI_BASIC
from lightning_imgmetrics.prompt_benchmarks.base.item_set import ItemSet
from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import GenAiPrompts, read_genai


class GenAiItem(NamedTuple):
    """A prompt, and the skills and groups of skills that it counts for."""

    prompt: str
    tags: tuple[str, ...]


class GenAIBench(BenchmarkMetric):
    """Mean VQAScore of images made from the compositional prompts of GenAI-Bench, in [0, 1].

    Higher is better. `categories`: means over the images of prompts that need a skill, and of "basic", "advanced" and
    "all" prompts. Where the file does not say so itself, a prompt with an advanced skill is advanced, and one with
    basic skills alone basic. Images of prompts without a skill are passed over. Reference: Li et al. 2024.

    Args:
        questions: the public genai_image.json; or, without `skills`, what `read_genai` made of both files.
        judge: see `VQAScore`, as are `question`, `answer`, `variant` and `thinking`.
        skills: the public genai_skills.json.
        kwargs: those of `BenchmarkMetric`, but for `retries`, `repeats` and `decoding`.

    Raises:
        UnreadableQuestions: a file is malformed.
        TypeError: one file of the two.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import Answer, GenAIBench, Judge
        >>> from lightning_imgmetrics.prompt_benchmarks.base.prompt_files import GenAiPrompts
        >>> class Sure(Judge):
        ...     def reply(self, questions, decoding, device):
        ...         return [Answer(probability=0.9) for _ in questions]
        >>> metric = GenAIBench(GenAiPrompts({"0": "two cats"}, {"counting": ("0",)}), Sure())
        >>> metric.update(images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8), prompts=["two cats"])
        >>> metric.compute()
        tensor(0.9000, dtype=torch.float64)
        >>> metric.categories()["counting"].n
        1
    """

    name: ClassVar[str] = "genai_bench"
    default_decoding = Decoding(max_tokens=1)
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0
    items: ItemSet[GenAiItem]

    def __init__(
        self,
        questions: str | Path | GenAiPrompts,
        judge: Judge | str = CLIP_FLANT5,
        *,
        skills: str | Path | None = None,
        question: str | None = None,
        answer: str | None = None,
        variant: str | None = None,
        thinking: bool | None = None,
        **kwargs: Any,
    ):
        refuse_sampling(kwargs)
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
        judge = as_judge(judge)
        self.question = VQAQuestion(judge, question=question, answer=answer, variant=variant, thinking=thinking)
        super().__init__(
            ItemSet(self.name, items, texts=bench.prompts, content=[[name, *item] for name, item in items.items()]),
            judge,
            kinds=[*tags],
            retries=0,
            decoding=self.question.decoding,
            **kwargs,
        )

    def queries(self, sample: Sample) -> list[Query]:
        return [self.question.query(sample.image, self.items[sample.item].prompt)]

    def conclude(self, sample: Sample, answers: Sequence[float | None]) -> Verdict:
        item = self.items[sample.item]
        row = {"question": self.question.about(item.prompt), "category": ", ".join(item.tags)}
        return Verdict(answers[0], rows=[{**row, "expected": self.question.answer, "score": answers[0]}])

    def similarity(self, *, images: Images, prompts: str | Sequence[str]) -> Tensor:
        """As `VQAScore.similarity`, of prompts of this benchmark or the names of items."""
        return similarity(self, images, prompts)

    def counted_rows(self, record: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
        """The one answer, for each tag of its item."""
        return [{**row, "category": tag} for row in record["rows"] for tag in self.items[record["item"]].tags]

    def signature_parameters(self) -> dict[str, object]:
        return {"questions": self.items.digest, **self.question.signature(super().signature_parameters())}


def genai_tags(skills: Mapping[str, Sequence[str]]) -> dict[str, frozenset[str]]:
    """Ids of prompts by skill, and those of "basic", "advanced" and "all" of them."""
    advanced = frozenset(name for skill in GENAI_ADVANCED for name in skills.get(skill, ()))
    basic = frozenset(name for skill in GENAI_BASIC for name in skills.get(skill, ())) - advanced
    tags = {"basic": basic, "advanced": advanced} | {skill: frozenset(names) for skill, names in skills.items()}
    return {**tags, "all": frozenset().union(*tags.values())}
