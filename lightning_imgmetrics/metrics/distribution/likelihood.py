"""Feature likelihood divergence."""

from __future__ import annotations

from typing import Any, ClassVar

from lightning_imgmetrics._compat.torchmetrics import forget_value
from lightning_imgmetrics._images import Images
from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.functional.likelihood import feature_likelihood_divergence
from lightning_imgmetrics.metrics.base.inputs import Ids
from lightning_imgmetrics.metrics.base.summary import Summary
from lightning_imgmetrics.metrics.distribution.feature_bank import BankMetric, Network
from lightning_imgmetrics.states.hash import uniform_hash


class FeatureLikelihoodDivergence(BankMetric):
    """FLD: how unlikely held-out images are under a density centered on the generated ones.

    It covers fidelity, diversity and copying at once: the density's widths are fitted on the training images
    (`real=True`), so copies of them explain held-out images badly, and `generalization_gap` in the details shows it.
    Held-out images come by `update_test`.

    Args:
        network: as for `FrechetDistance`.
        test_share: the share of the reference, chosen by hashed id, that is held out where there are no held-out
            images; copies of training images then go unnoticed if the reference was the training set.
        seed: of the fit.
        kwargs: those of `BankMetric`.

    Returns:
        A scalar; lower is better.

    Raises:
        NotEnoughSamples: at `compute`, with fewer than 4 training, held-out or generated images.

    References:
        Jiralerspong et al. 2023, "Feature likelihood divergence".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import FeatureLikelihoodDivergence
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = FeatureLikelihoodDivergence("digits-clip")
        >>> metric.update(images, real=True, ids=range(8))
        >>> metric.update_test(255 - images, ids=range(8))
        >>> metric.update(images, real=False, ids=range(8))
        >>> bool(metric.result().details["generalization_gap"] < 0)
        True
    """

    name: ClassVar[str] = "fld"
    higher_is_better = False

    def __init__(self, network: Network = "inception", *, test_share: float = 0.5, seed: int = 0, **kwargs: Any):
        if not 0 < test_share < 1:
            raise ValueError(f"`test_share` must lie between 0 and 1, got {test_share}")
        self.test_share, self.seed = test_share, seed
        super().__init__(network, **kwargs)
        self.streams["real_test"] = self.streams["real_bank"].owned_by(self, "test")

    def update_test(self, images: Images, ids: Ids | None = None) -> None:
        """Add held-out real images (n, 3, h, w)."""
        if self.streams["real_test"].owner is not self:
            raise TypeError("another fld of this MetricSuite keeps the held-out images of both: call its `update_test`")
        with full_precision(self.device):
            features = self.extract(self.validate_images(images))
            self.streams["real_test"].add(self.streams["real_test"].vectors(features), ids)
            forget_value(self)

    def summarize(self) -> Summary:
        train, fake = self.both(4, "a density and its baseline need some")
        test = self.store.features(self.state("real_test"))
        has_test = len(test) > 0
        if not has_test:
            held = uniform_hash(self.store.ids(self.state("real_bank")), seed=3) < self.test_share
            train, test = train[~held.to(train.device)], train[held.to(train.device)]
        least = min(len(train), len(test))
        if least < 4:
            raise NotEnoughSamples(self.name, least, 4, f"{len(train)} training and {len(test)} held-out images")
        value, gap = feature_likelihood_divergence(train, test.to(train.device), fake, seed=self.seed)
        details = {"generalization_gap": float(gap)}
        counts = {
            "n_train": len(train),
            "n_test": len(test),
            "n": len(fake),
            "test": "given" if has_test else "held-out",
        }
        return Summary(value, len(fake), details=details, counts=counts)

    def signature_parameters(self) -> dict[str, object]:
        return {**super().signature_parameters(), "test_share": self.test_share, "seed": self.seed}
