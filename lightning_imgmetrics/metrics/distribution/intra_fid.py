"""FID within each class or prompt category."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from lightning_imgmetrics._images import Images
from lightning_imgmetrics.errors import NonFiniteFeatures, NotEnoughSamples, ShapeError
from lightning_imgmetrics.functional.frechet import frechet_of_factors, psd_factor, row_factor
from lightning_imgmetrics.metrics.base.inputs import Ids
from lightning_imgmetrics.metrics.base.streams import Stream
from lightning_imgmetrics.metrics.base.summary import Summary
from lightning_imgmetrics.metrics.distribution.base import DistributionMetric
from lightning_imgmetrics.metrics.distribution.feature_bank import Network
from lightning_imgmetrics.metrics.distribution.inception_protocols import inception_network, shared_network
from lightning_imgmetrics.models.base.extractor import Extractor, Features
from lightning_imgmetrics.states.bank import Bank
from lightning_imgmetrics.states.moments import Moments

_MAX_LABEL = 1 << 24  # labels travel with float32 features


class IntraFrechetInceptionDistance(DistributionMetric):
    """Intra-FID: the mean over classes of the FID between real and generated images of one class.

    Each class is in the details, as "class_<label>" or under its name. Features are kept in host memory, 8.2 KB an
    image.

    Args:
        feature: see `FrechetInceptionDistance`.
        network: as for `FrechetDistance`, in place of Inception.
        class_names: the name of each class, by label.
        normalize: take float images in `value_range` too, beside uint8.
        protocol: see `FrechetInceptionDistance`.
        feature_extractor_weights_path: a file in place of the published weights.
        input_img_size: (c, h, w) of the images that a module of your own takes.
        kwargs: those of `DistributionMetric`.

    Returns:
        A scalar >= 0; lower is better. Few images in a class bias it upwards.

    Raises:
        NotEnoughSamples: at `compute`, where a class has fewer than 2 images on a side.

    References:
        Miyato & Koyama 2018, "cGANs with projection discriminator".

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import IntraFrechetInceptionDistance
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = IntraFrechetInceptionDistance(network="digits-clip", class_names=["odd", "even"], normalize=True)
        >>> labels = torch.tensor([0, 1, 0, 1])
        >>> metric.update(images[:4], real=True, labels=labels)
        >>> metric.update(images[4:], real=False, labels=labels)
        >>> round(float(metric.compute()), 3)
        9.314
        >>> sorted(metric.result().details)
        ['even', 'n_clamped', 'odd']
    """

    name: ClassVar[str] = "intra_fid"
    higher_is_better = False
    plot_lower_bound: float = 0.0
    inputs = ("real", "labels")

    inception = shared_network

    def __init__(
        self,
        feature: int | nn.Module | Extractor = 2048,
        *,
        network: Network | None = None,
        class_names: Sequence[str] | None = None,
        normalize: bool = False,
        protocol: str = "torchmetrics",
        feature_extractor_weights_path: str | None = None,
        input_img_size: tuple[int, int, int] = (3, 299, 299),
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
            takes_names=True,
        )
        self.class_names = None if class_names is None else list(class_names)
        self.store = Bank(extractor.dim(layer) + 1)
        streams = {"labelled": Stream(self.store, self.store.d, layer)}
        super().__init__(extractor, streams, streams, **kwargs)

    def update(self, images: Images, real: bool, labels: Tensor | Sequence[int], ids: Ids | None = None) -> None:
        """Add images (n, 3, h, w) of classes `labels` (n,) to the reference or to the generated set."""
        self.stage(self.extract(self.validate_images(images)), real=real, labels=labels, ids=ids)()

    def rows(self, stream: Stream, features: Features, *, labels: Tensor | Sequence[int] = (), **inputs: Any) -> Tensor:
        x = features[stream.layer]
        self.check_inputs(len(x), labels=labels)
        return torch.cat([x, torch.as_tensor(labels, device=x.device)[:, None].to(x)], 1)

    def check_inputs(self, n: int, *, labels: Tensor | Sequence[int] = (), **_: Any) -> None:
        try:
            column = torch.as_tensor(labels)
        except (TypeError, ValueError) as error:
            raise ShapeError(f"`labels` must be {n} integers, one per image, got {labels!r}") from error
        if column.shape != (n,) or column.is_floating_point() or column.dtype == torch.bool:
            got = f"{tuple(column.shape)} {column.dtype}"
            raise ShapeError(f"`labels` must be {n} integers, one per image, got {got}")
        n_labels = _MAX_LABEL if self.class_names is None else len(self.class_names)
        if n and not 0 <= int(column.min()) <= int(column.max()) < n_labels:
            raise ValueError(f"`labels` must lie in [0, {n_labels}), got {int(column.min())}..{int(column.max())}")

    def summarize(self) -> Summary:
        sides = [self.store.features(self.state(f"{side}_labelled")) for side in ("real", "fake")]
        labels = torch.cat([side[:, -1] for side in sides]).unique().tolist()
        if not all(side.isfinite().all() for side in sides):
            raise NonFiniteFeatures(f"{self.name}: the network returned NaN or infinity for some images")
        if not labels:
            raise NotEnoughSamples(self.name, 0, 2, "images of each class on each side")
        values: dict[str, float] = {}
        for label in labels:
            parts = [side[side[:, -1] == label, :-1] for side in sides]
            title = f"class_{int(label)}" if self.class_names is None else self.class_names[int(label)]
            if min(map(len, parts)) < 2:
                why = f"of {title} there are {len(parts[0])} real and {len(parts[1])} generated images"
                raise NotEnoughSamples(self.name, min(map(len, parts)), 2, why)
            values[title] = float(_distance(*parts))
        value = torch.tensor(list(values.values()), dtype=torch.float64).mean()
        n_real, n = (len(side) for side in sides)
        return Summary(value, n, details=values, counts={"classes": len(labels), "n_real": n_real, "n": n})


def _distance(real: Tensor, fake: Tensor) -> Tensor:
    """Between features (n, d) and (m, d); the eigenproblem is as small as the smallest of n, m, d."""
    (mean_real, factor_real), (mean_fake, factor_fake) = _factor(real), _factor(fake)
    return frechet_of_factors(mean_real, factor_real, mean_fake, factor_fake)


def _factor(x: Tensor) -> tuple[Tensor, Tensor]:
    if len(x) <= x.shape[1]:
        return row_factor(x)
    moments = Moments(x.shape[1])
    state = moments.empty()
    for part in x.split(4096):
        state = moments.add(state, part)
    return moments.unpack(state)[1], psd_factor(moments.cov(state))
