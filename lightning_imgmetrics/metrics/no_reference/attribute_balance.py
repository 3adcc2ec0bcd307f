"""How evenly a model spreads an attribute, such as perceived gender, over what it generates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import NonFiniteFeatures, NotEnoughSamples, ShapeError, UnknownName
from lightning_imgmetrics.functional.balance import balance_interval, kl_divergence, largest_skew, total_variation
from lightning_imgmetrics.metrics.base.inputs import Ids, as_texts
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Summary
from lightning_imgmetrics.models.base.extractor import Features
from lightning_imgmetrics.models.encoders.clip import ClipExtractor
from lightning_imgmetrics.models.scorers.classifier import ClassifierExtractor
from lightning_imgmetrics.states.hash import text_key
from lightning_imgmetrics.states.tables import Reservoir

Target = Mapping[str, float] | Sequence[float]


class AttributeBalance(ImageMetric):
    """KL divergence of the labels of the generated images from a stated distribution.

    Labels are a network's guess: check its errors per label before reading bias. The details hold both ways of taking
    the mean ("kl_pooled", "kl_per_prompt"), "share_<label>", "skew_<label>" = log(share / target), "largest_skew" and
    "total_variation" in [0, 1].

    Args:
        labels: two or more texts.
        target: the share of each label, by name or in order; default all alike.
        network: the CLIP whose nearest label text an image gets.
        classifier: a checkpoint of transformers' image classifiers in place of it; images that it puts under none of
            `labels` are left out and counted ("unlabeled_fraction").
        template: the text of a label, with {} where the label goes.
        per_prompt: the mean of the prompts' divergences, for many samples each: a balanced prompt of n scores about (k
            - 1) / 2n. Otherwise pooled over prompts, where opposite biases cancel.
        seed: of the bootstrap over prompts, which gives the interval.
        revision: of the checkpoint on the hub.
        dtype: "float32" or "bfloat16".
        kwargs: those of `ImageMetric`.

    Returns:
        A scalar >= 0, in nats; lower is better.

    Raises:
        NotEnoughSamples: at `compute`, where no image has one of the labels.

    References:
        Cho et al. 2023 (DALL-Eval); Geyik et al. 2019 (skew); Luccioni et al. 2023 (Stable Bias).

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import AttributeBalance
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = AttributeBalance(["one", "seven"], network="digits-clip")
        >>> metric.update(images, prompts="a handwritten digit")
        >>> bool(0 <= metric.compute() <= 0.7)
        True
    """

    name: ClassVar[str] = "attribute_balance"
    unit: ClassVar[str] = "nats"
    higher_is_better = False
    plot_lower_bound: float = 0.0
    inputs = ("prompts",)
    default_network: ClassVar[str] = "openai/clip-vit-large-patch14"

    def __init__(
        self,
        labels: Sequence[str],
        target: Target | None = None,
        *,
        network: str | None = None,
        classifier: str | None = None,
        template: str = "a photo of {}",
        per_prompt: bool = False,
        seed: int = 0,
        revision: str | None = None,
        dtype: str = "float32",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if network is not None and classifier is not None:
            raise TypeError(f"`network` or `classifier` gives the labels, got both: {network!r} and {classifier!r}")
        self.labels = _distinct(labels)
        self.target = _shares(target, self.labels)
        if "{}" not in template:
            raise ValueError(f"`template` must have {{}} where the label goes, got {template!r}")
        self.template, self.per_prompt, self.seed = template, per_prompt, seed
        self.classified = classifier is not None
        self.extractor: ClipExtractor | ClassifierExtractor
        if classifier is None:
            self.extractor = ClipExtractor(network or self.default_network, revision, dtype=dtype)
            self.layers, self.places = ("embed",), list(range(len(self.labels)))
        else:
            self.extractor = ClassifierExtractor(classifier, revision, dtype=dtype)
            self.layers, self.places = ("probabilities",), _places(self.extractor, self.labels)
        self.add_stream("label", Stream(Reservoir(None, 3), 3))

    def update(self, images: Images, prompts: str | Sequence[str], ids: Ids | None = None) -> None:
        """Add images (n, 3, h, w) and the prompt (n strings) that each was sampled for."""
        batches = self.validate_images(images)
        prompts = as_texts(prompts, sum(map(len, batches)))
        self.stage(self.extract(batches), prompts=prompts, ids=ids)()

    def stage(
        self, features: Features, *, prompts: Sequence[str] = (), ids: Ids | None = None, **_: Any
    ) -> Callable[[], None]:
        confidence, top = self._probabilities(features).max(1)
        rows = torch.stack([top.new_tensor(self.places)[top].to(confidence), confidence], 1).to(self.home)
        keys = rows.new_tensor([[text_key(prompt)] for prompt in prompts], dtype=torch.float64)
        return partial(self.streams["label"].add, torch.cat([keys, rows.double()], 1), ids)

    def _probabilities(self, features: Features) -> Tensor:
        """Of all labels that the network tells apart: (n, m)."""
        if isinstance(self.extractor, ClassifierExtractor):
            return features["probabilities"]
        image = normalize(features["embed"], dim=1)
        texts = [self.template.replace("{}", label) for label in self.labels]
        text = normalize(self.extractor.embed_text(texts, self.device)[0].to(image.device), dim=1)
        return (self.extractor.logits(image.device)[0] * image @ text.mT).softmax(1)

    def summarize(self) -> Summary:
        _, keys, labels, confidence = self.streams["label"].read().unbind(1)
        if n_invalid := int((~confidence.isfinite()).sum()):
            raise NonFiniteFeatures(f"{self.name}: the network returned NaN or infinity for {n_invalid} images")
        labeled = labels >= 0
        n, k = int(labeled.sum()), len(self.labels)
        if n == 0:
            raise NotEnoughSamples(self.name, 0, 1, f"of {len(labeled)} images none has one of the labels")
        prompts, row = keys[labeled].unique(return_inverse=True)
        p = len(prompts)
        counts = torch.bincount(row * k + labels[labeled].long(), minlength=p * k).view(p, k).double()
        target = self.target.to(counts.device)
        pooled, each = kl_divergence(counts.sum(0), target), kl_divergence(counts, target)
        details = {
            **self._shares(counts.sum(0), target),
            "kl_pooled": float(pooled),
            "kl_per_prompt": float(each.mean()),
        }
        details |= {"mean_confidence": float(confidence[labeled].mean()), "n_prompts": float(p)}
        if self.classified:
            details["unlabeled_fraction"] = 1 - n / len(labeled)
        value = each.mean() if self.per_prompt else pooled
        interval = self._interval(counts, each) if p > 1 else None
        return Summary(value, n, details=details, counts={"n": n, "prompts": p}, interval=interval)

    def _interval(self, counts: Tensor, each: Tensor) -> tuple[float, float]:
        """By the bootstrap over prompts, of their counts or of the divergences `each` (p,)."""
        if not self.per_prompt:
            return balance_interval(counts, self.target, seed=self.seed)[1:]
        summed = torch.stack([each, torch.ones_like(each)], 1)  # whose weighted sums have the mean as their ratio
        unused = self.target.new_tensor([0.5, 0.5])
        return balance_interval(summed, unused, lambda sums, _: sums[..., 0] / sums[..., 1], seed=self.seed)[1:]

    def _shares(self, counts: Tensor, target: Tensor) -> dict[str, float]:
        share = counts / counts.sum()
        skew = torch.where(share == target, 0, (share / target).log())
        details = {f"share_{label}": x for label, x in zip(self.labels, share.tolist(), strict=True)}
        details |= {f"skew_{label}": x for label, x in zip(self.labels, skew.tolist(), strict=True)}
        distances = {"largest_skew": largest_skew(counts, target), "total_variation": total_variation(counts, target)}
        return {**details, **{name: float(x) for name, x in distances.items()}}

    def signature_parameters(self) -> dict[str, object]:
        how = {} if self.classified else {"template": self.template}
        target = "+".join(f"{share:.6g}" for share in self.target.tolist())
        over = "mean over prompts" if self.per_prompt else "pooled"
        return {"labels": "+".join(self.labels), "target": target, "over": over, **how}


def _distinct(labels: Sequence[str]) -> tuple[str, ...]:
    texts = (labels,) if isinstance(labels, str) else tuple(labels)
    if len(texts) < 2 or len(set(texts)) < len(texts) or not all(isinstance(x, str) and x.strip() for x in texts):
        raise ValueError(f"`labels` must be two or more different texts, got {labels!r}")
    return texts


def _shares(target: Target | None, labels: Sequence[str]) -> Tensor:
    """The target (k,), float64; ValueRangeError unless it is a distribution."""
    if target is None:
        return torch.full((len(labels),), 1 / len(labels), dtype=torch.float64)
    if isinstance(target, Mapping):
        if unknown := [label for label in target if label not in labels]:
            raise UnknownName("target", unknown[0], labels)
        target = [target.get(label, 0.0) for label in labels]
    shares = torch.as_tensor(target, dtype=torch.float64)
    if shares.shape != (len(labels),):
        raise ShapeError(f"`target` must hold {len(labels)} shares, one per label, got shape {tuple(shares.shape)}")
    kl_divergence(shares, shares)  # refuses what is no distribution
    return shares / shares.sum()


def _places(extractor: ClassifierExtractor, labels: Sequence[str]) -> list[int]:
    """Where each of the classifier's labels stands among `labels`, -1 where it is none of them."""
    names = extractor.labels()
    if not extractor.exclusive():
        raise ValueError("`classifier` must give each image one label, got a multi-label checkpoint")
    for label in labels:
        if label not in names:
            raise UnknownName("labels", label, names)
    return [labels.index(name) if name in labels else -1 for name in names]
