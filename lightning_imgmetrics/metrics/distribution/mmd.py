"""Maximum mean discrepancies: KID and CMMD."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn

from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.functional.mmd import (
    gaussian_mmd,
    gaussian_mmd_of_moments,
    gaussian_mmd_truncation,
    random_subsets,
    subset_polynomial_mmd,
)
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Summary
from lightning_imgmetrics.metrics.distribution.base import DistributionMetric
from lightning_imgmetrics.metrics.distribution.feature_bank import BankMetric, Network
from lightning_imgmetrics.metrics.distribution.inception_protocols import (
    inception_network,
    network_of,
    shared_network,
    unit_rows,
)
from lightning_imgmetrics.models.base.extractor import Extractor
from lightning_imgmetrics.models.encoders.clip import ClipExtractor
from lightning_imgmetrics.states.moments import Moments


class KernelInceptionDistance(BankMetric):
    """KID: unbiased squared MMD of Inception features under a cubic kernel; drop-in for torchmetrics.

    k(x, y) = (gamma x.y + coef)^degree, averaged over random subsets that depend on `seed` and the sample ids alone.

    Args:
        feature: the layer of Inception, or a module; see `FrechetInceptionDistance`.
        subsets: number of subsets.
        subset_size: samples of each, on both sides.
        degree, gamma, coef: of the kernel; `gamma=None` is 1 / d.
        reset_real_features: whether `reset` clears the reference too.
        normalize: take float images in `value_range` too, beside uint8.
        network: as for `FrechetDistance`, in place of Inception.
        protocol: see `FrechetInceptionDistance`.
        feature_extractor_weights_path: a file in place of the published weights.
        input_img_size: (c, h, w) of the images that a module of your own takes.
        seed: of the subsets.
        kwargs: those of `BankMetric`: `max_samples`, `bank`.

    Returns:
        (mean, standard deviation over subsets), scalars; unbiased, so the mean may be below 0; lower is better.

    Raises:
        NotEnoughSamples: at `compute`, with fewer samples than `subset_size` on a side.

    References:
        Bińkowski et al. 2018, "Demystifying MMD GANs".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import KernelInceptionDistance
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = KernelInceptionDistance(network="digits-clip", subsets=2, subset_size=3, normalize=True)
        >>> metric.update(images[:4], real=True, ids=range(4))
        >>> metric.update(images[4:], real=False, ids=range(4))
        >>> mean, deviation = metric.compute()
        >>> round(float(mean), 3)
        -2.171
    """

    name: ClassVar[str] = "kid"
    deviation = "subset_std"
    higher_is_better = False
    plot_lower_bound: float = 0.0
    plot_upper_bound: float = 1.0

    inception = shared_network

    def __init__(
        self,
        feature: str | int | nn.Module | Extractor = 2048,
        subsets: int = 100,
        subset_size: int = 1000,
        degree: int = 3,
        gamma: float | None = None,
        coef: float = 1.0,
        reset_real_features: bool = True,
        normalize: bool = False,
        *,
        network: Network | None = None,
        protocol: str = "torchmetrics",
        feature_extractor_weights_path: str | None = None,
        input_img_size: tuple[int, int, int] = (3, 299, 299),
        seed: int = 0,
        **kwargs: Any,
    ):
        extractor, layer = inception_network(
            self,
            feature,
            network,
            normalize=normalize,
            protocol=protocol,
            weights=feature_extractor_weights_path,
            input_img_size=input_img_size,
            choices=("logits_unbiased", 64, 192, 768, 2048),
            takes_names=True,
        )
        for argument, number in (("subsets", subsets), ("subset_size", subset_size), ("degree", degree)):
            if not (isinstance(number, int) and number > 0):
                raise ValueError(f"Argument `{argument}` expected to be integer larger than 0")
        if gamma is not None and not (isinstance(gamma, float) and gamma > 0):
            raise ValueError("Argument `gamma` expected to be `None` or float larger than 0")
        if not (isinstance(coef, float) and coef > 0):
            raise ValueError("Argument `coef` expected to be float larger than 0")
        self.subsets, self.subset_size, self.seed = subsets, subset_size, seed
        self.degree, self.gamma, self.coef = degree, gamma, coef
        super().__init__(extractor, layer=layer, reset_real_features=reset_real_features, **kwargs)

    def summarize(self) -> Summary:
        real, fake = self.features("real"), self.features("fake")
        least, m = min(len(real), len(fake)), self.subset_size
        if least < m:
            why = "Argument `subset_size` should be smaller than the number of samples"
            raise NotEnoughSamples(self.name, least, m, why)
        subsets = [random_subsets(len(x), m, self.subsets, self.seed + i) for i, x in enumerate((real, fake))]
        kernel = partial(subset_polynomial_mmd, degree=self.degree, gamma=self.gamma, coef=self.coef)
        values = self.over_ranks(lambda share: kernel(real, fake, *subsets, share=share))
        details = {self.deviation: float(values.std(correction=0))}
        return Summary(values.mean(), len(fake), details=details, counts={"n_real": len(real), "n": len(fake)})

    def signature_parameters(self) -> dict[str, Any]:
        mine = {"subsets": self.subsets, "subset_size": self.subset_size, "degree": self.degree, "coef": self.coef}
        return {**super().signature_parameters(), **mine, "gamma": self.gamma or "1/d", "seed": self.seed}


class CLIPMaximumMeanDiscrepancy(BankMetric):
    """CMMD: 1000 times the squared MMD of CLIP image embeddings of length 1 under a Gaussian kernel of width 10.

    Needs no Gaussian assumption and far fewer images than FID. The diagonals are kept, as in the reference
    implementation.

    Args:
        network: as for `FrechetDistance`.
        layer: the layer of the network; default its embedding.
        streaming: keep moments in place of embeddings and expand the kernel to second order, at most `truncation_bound`
            (0.0007) from the exact value.
        kwargs: those of `BankMetric`.

    Returns:
        A scalar >= 0; lower is better.

    Raises:
        NotEnoughSamples: at `compute`, without an image on a side.

    References:
        Jayasumana et al. 2024, "Rethinking FID: towards a better evaluation metric for image generation".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import CLIPMaximumMeanDiscrepancy
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = CLIPMaximumMeanDiscrepancy("digits-clip")
        >>> metric.update(images[:4], real=True)
        >>> metric.update(images[4:], real=False)
        >>> round(float(metric.compute()), 3)
        0.191
    """

    name: ClassVar[str] = "cmmd"
    higher_is_better = False
    plot_lower_bound: float = 0.0
    scale: ClassVar[float] = 1000.0
    sigma: ClassVar[float] = 10.0
    default_network: ClassVar[str] = "openai/clip-vit-large-patch14-336"

    def __init__(
        self,
        network: Network = default_network,
        *,
        layer: str | None = None,
        streaming: bool = False,
        **kwargs: Any,
    ):
        extractor, own = network_of(network)
        if isinstance(network, str) and isinstance(extractor, ClipExtractor):
            extractor = ClipExtractor(network, resize="crop-bicubic")
        self.streaming, layer = streaming, layer or own
        if streaming:
            self.moments = Moments(extractor.dim(layer))
            streams = {"moments": Stream(self.moments, self.moments.d, layer, unit_rows)}
            self.max_samples, self.bank = None, "float32"
            DistributionMetric.__init__(self, extractor, streams, streams, **kwargs)
        else:
            super().__init__(extractor, layer=layer, transform=unit_rows, **kwargs)

    def summarize(self) -> Summary:
        if self.streaming:
            parts = [self.moments.unpack(self.state(f"{side}_moments")) for side in ("real", "fake")]
            n_real, n = (int(count) for count, _, _ in parts)
            if min(n_real, n) < 1:
                raise NotEnoughSamples(self.name, min(n_real, n), 1, f"{n_real} real and {n} generated")
            flat = [x for count, mean, scatter in parts for x in (mean, scatter / count + torch.outer(mean, mean))]
            value = gaussian_mmd_of_moments(*flat, sigma=self.sigma)
        else:
            real, fake = self.both(1, "an embedding on each side")
            n_real, n = len(real), len(fake)
            value = self.over_ranks(lambda share: gaussian_mmd(real, fake, sigma=self.sigma, share=share))
        return Summary(self.scale * value, n, counts={"n_real": n_real, "n": n})

    @property
    def truncation_bound(self) -> float:
        """Largest distance of the streaming value from the exact one."""
        return self.scale * gaussian_mmd_truncation(self.sigma)

    def signature_parameters(self) -> dict[str, Any]:
        kernel = {"kernel": f"gaussian-{self.sigma:g}", **({"order": 2} if self.streaming else {})}
        return {**super().signature_parameters(), **kernel}
