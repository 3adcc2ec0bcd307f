"""VQAScore: how likely a model that sees the image is to say that it shows what the prompt says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from lightning_imgmetrics._images import Images, as_images
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import ShapeError
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.clip_flant5 import CLIP_FLANT5
from lightning_imgmetrics.judges.backends.question import Decoding
from lightning_imgmetrics.judges.backends.resolve import as_judge
from lightning_imgmetrics.judges.metrics.judge_metric import JudgeMetric
from lightning_imgmetrics.judges.metrics.queries import Query, Sample
from lightning_imgmetrics.judges.metrics.verdict_metric import VerdictMetric
from lightning_imgmetrics.judges.metrics.verdicts import Verdict
from lightning_imgmetrics.judges.metrics.vqa_question import VQAQuestion, refuse_sampling
from lightning_imgmetrics.metrics.base.inputs import as_texts


class VQAScore(JudgeMetric):
    """Mean probability that a judge says yes when asked whether the image shows the prompt, in [0, 1].

    Higher is better. Images go through the checkpoint's own processor, not qwen-vl-utils; prompts are not truncated. A
    server must give logprobs. Reference: Lin et al. 2024.

    Args:
        judge: see `JudgeMetric`; by default CLIP-FlanT5-XXL, as published.
        question: what is asked, with `{}` in place of the prompt; by default the authors' for the judge's kind.
        answer: whose probability is the score; by default the authors' for the judge's kind.
        variant: "plain", the product of the probabilities of the answer's tokens; "published", what the authors' code
            computes: for CLIP-FlanT5, InstructBLIP-FlanT5 and LLaVA-1.5 the geometric mean over the answer and its end
            (default there), for Qwen-VL, Gemma and PaliGemma the first token's after the checkpoint's own repetition
            penalty.
        thinking: for chat templates that ask; by default False where a judge without the option ignores it.
        kwargs: those of `JudgeMetric`, but for `retries`, `repeats` and `decoding`.

    Raises:
        ValueError: `question` has no place for the prompt, or the authors have no such `variant` for the judge.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import Answer, Judge, VQAScore
        >>> class Bright(Judge):  # says yes to bright images
        ...     def reply(self, questions, decoding, device):
        ...         return [Answer(probability=float(q.images[0].float().mean() / 255)) for q in questions]
        >>> metric = VQAScore(Bright(), question="Is this {}?")
        >>> metric.update(images=torch.full((2, 3, 8, 8), 51, dtype=torch.uint8), prompts="a white wall")
        >>> metric.compute()
        tensor(0.2000, dtype=torch.float64)
    """

    name: ClassVar[str] = "vqa_score"
    default_decoding = Decoding(max_tokens=1)
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    def __init__(
        self,
        judge: Judge | str = CLIP_FLANT5,
        *,
        question: str | None = None,
        answer: str | None = None,
        variant: str | None = None,
        thinking: bool | None = None,
        **kwargs: Any,
    ):
        refuse_sampling(kwargs)
        judge = as_judge(judge)
        self.question = VQAQuestion(judge, question=question, answer=answer, variant=variant, thinking=thinking)
        super().__init__(judge, retries=0, decoding=self.question.decoding, **kwargs)

    def queries(self, sample: Sample) -> list[Query]:
        return [self.question.query(sample.image, sample.prompt)]

    def conclude(self, sample: Sample, answers: Sequence[float | None]) -> Verdict:
        return Verdict(answers[0])

    def similarity(self, *, images: Images, prompts: str | Sequence[str]) -> Tensor:
        """The score of every prompt with every image: m prompts, n images -> (m, n), NaN where there is none.

        Nothing is added to the state.
        """
        return similarity(self, images, prompts)

    def signature_parameters(self) -> dict[str, object]:
        return self.question.signature(super().signature_parameters())


def similarity(metric: VerdictMetric, images: Images, prompts: str | Sequence[str]) -> Tensor:
    """The score by a metric of every prompt with every image: m prompts, n images -> (m, n)."""
    texts = [prompts] if isinstance(prompts, str) else as_texts(prompts, len(prompts))
    if not texts:
        raise ShapeError("`prompts` must hold at least one text, got none")
    metric.check_inputs(len(texts), prompts=texts)
    with full_precision(metric.device):
        pixels = metric.extract(as_images(images, value_range=metric.value_range)[0])["pixels"]
        pairs = [(image, text) for text in texts for image in pixels]
        scores = metric.scores_of({"pixels": [image for image, _ in pairs]}, prompts=[text for _, text in pairs])
        return scores[:, 0].reshape(len(texts), len(pixels))
