"""Feature likelihood divergence (Jiralerspong et al. 2023): does a density around generated images explain real ones?

A mixture of isotropic Gaussians, one around each generated sample, is fitted to the training features by its
variances alone. Its negative log likelihood on held-out features penalizes poor fidelity, poor diversity and copies:
a Gaussian centered on a training sample becomes narrow and explains nothing else.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.errors import NotEnoughSamples
from lightning_imgmetrics.functional.distances import Euclidean, blocks, mean_row

CENTERS = 10_000  # Gaussians at most
BATCH = 10_000  # rows of one step
EPOCHS, RATE, CHANGE = 50, 0.5, 5e-4
LIMIT = 40.0  # of a log variance: copies would drive it to minus infinity
ROWS = 256  # rows of a block: 20 MB of float64 distances to CENTERS
CACHE = 1 << 27  # bytes of distances that are cached between epochs
Terms = Callable[[Tensor], Tensor]


def feature_likelihood_divergence(
    train: Tensor, test: Tensor, generated: Tensor, *, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """FLD (lower is better) and generalization gap (best near 0), scalars float64 in 100 nats per dimension.

    From features train (n, d), n >= 4, test (m, d), m >= 2, generated (g, d). FLD is the held-out negative log
    likelihood minus that of a mixture around one half of train, fitted to the other half. The gap, train minus test, is
    far below 0 if generated samples copy training ones. Features are scaled to unit variance in test; `seed` determines
    subsets and batches. NotEnoughSamples for fewer rows.

    >>> train, test = torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(0))
    >>> fld, gap = feature_likelihood_divergence(train, test, generated=train)
    >>> bool(gap < -10)  # memorized
    True
    """
    bind_shapes(train=(train, "n d"), test=(test, "m d"), generated=(generated, "g d"))
    for name, x, need in (("`train`", train, 4), ("`test`", test, 2), ("`generated`", generated, 1)):
        if len(x) < need:
            raise NotEnoughSamples(name, len(x), need, "the likelihood is fitted on train and measured on test")
    random = torch.Generator().manual_seed(seed)
    with full_precision(train.device):
        spread = _spread(test)
        centers = generated[_shuffled(generated, random)[:CENTERS]]
        log_variance = _fit(train, _shuffled(train, random), centers, spread)
        on_test, on_train = (_loss(x, centers, spread, log_variance) for x in (test, train))
        order = _shuffled(train, random)
        half = min(len(centers), len(train) // 2)
        centers, rest = train[order[:half]], order[half:]
        baseline = _loss(test, centers, spread, _fit(train, rest, centers, spread))
    return 100 * (on_test - baseline), 100 * (on_train - on_test)


def _fit(x: Tensor, order: Tensor, centers: Tensor, spread: Tensor) -> Tensor:
    """Log variances (m,) of the Gaussians around `centers`, fitted by Adam to the rows `order` of x.

    A component around the mean of x, with distances reduced by a tenth, is a floor for outliers; it is not returned.
    """
    d = x.shape[1]
    distances = _Distances(x, order, centers, spread)
    parameters = torch.cat([((distances.smallest() + 1e-3) / d).log(), x.new_zeros(1, dtype=torch.float64)])
    first, second, step, losses = torch.zeros_like(parameters), torch.zeros_like(parameters), 0, []
    for epoch in range(EPOCHS):
        total = []
        for batch in blocks(len(order), size=BATCH):
            loss, gradient = _gradient(distances, batch, parameters, d)
            step += 1
            first = 0.9 * first + 0.1 * gradient
            second = 0.999 * second + 0.001 * gradient.square()
            parameters -= RATE * (first / (1 - 0.9**step)) / ((second / (1 - 0.999**step)).sqrt() + 1e-8)
            parameters[:-1].clamp_(-LIMIT, LIMIT)
            total.append(loss)
        losses.append(sum(total) / len(total))
        if epoch > 5 and max(abs(losses[-1] - earlier) for earlier in losses[-5:]) < CHANGE:
            break
    return parameters[:-1]


def _gradient(distances: _Distances, batch: slice, parameters: Tensor, d: int) -> tuple[float, Tensor]:
    """Negative log likelihood per row and dimension of a batch, and its gradient in the log variances, the mean's last.

    With responsibilities r_ij, the derivative of the log likelihood of row i is r_ij (D_ij / variance_j - d) / 2.
    """
    prior = parameters.new_full((len(parameters),), -math.log(len(parameters) - 1))
    prior[-1] = 0
    rows, total, gradient = batch.stop - batch.start, 0.0, torch.zeros_like(parameters)
    for squared in distances.of(batch):
        scaled = squared.mul_((-parameters).exp())
        terms = (scaled + d * (parameters + math.log(2 * math.pi))).mul_(-0.5).add_(prior)
        likelihood = terms.logsumexp(1, keepdim=True)
        total -= float(likelihood.sum())
        gradient -= terms.sub_(likelihood).exp_().mul_(scaled.sub_(d)).sum(0) / 2
    return total / (rows * d), gradient / (rows * d)


def _loss(x: Tensor, centers: Tensor, spread: Tensor, log_variance: Tensor) -> Tensor:
    """Mean negative log likelihood of x (n, d) per dimension, in nats."""
    d, total = x.shape[1], log_variance.new_zeros(())
    rows = torch.arange(len(x), device=x.device)
    for squared in _Distances(x, rows, centers, spread).squared(slice(0, len(x))):
        terms = squared.mul_((-log_variance).exp()).add_(d * (log_variance + math.log(2 * math.pi))).mul_(-0.5)
        total -= (terms.logsumexp(1) - math.log(len(centers))).sum()
    return total / (len(x) * d)


class _Distances:
    """Squared distances of rows of x to the centers and to their own mean, in blocks; cached in float32 if few."""

    def __init__(self, x: Tensor, order: Tensor, centers: Tensor, spread: Tensor):
        self.measure, self.order = Euclidean(x, centers, spread=spread), order
        self.cache: dict[tuple[int, int], Tensor] | None = {} if 4 * len(order) * len(centers) <= CACHE else None
        parts = [order[i] for i in blocks(len(order))]
        mean = torch.stack([x[rows].double().sum(0) for rows in parts]).sum(0) / len(order)
        self.to_mean = 0.81 * torch.cat([((x[rows] - mean) / spread).square_().sum(1) for rows in parts])[:, None]

    def smallest(self) -> Tensor:
        """Smallest squared distance (m,) of each center to a row of x."""
        batches = blocks(len(self.order), size=BATCH)
        parts = (squared.amin(0) for batch in batches for squared in self.squared(batch))
        result = next(parts)
        for part in parts:
            result = torch.minimum(result, part)
        return result

    def of(self, rows: slice) -> Iterator[Tensor]:
        """Blocks (r, m + 1) float64 of the rows, the distance to their mean last."""
        start = rows.start
        for squared in self.squared(rows):
            yield torch.cat([squared, self.to_mean[start : start + len(squared)]], 1)
            start += len(squared)

    def squared(self, rows: slice) -> Iterator[Tensor]:
        """Blocks (r, m) float64 of the rows."""
        for start in range(rows.start, rows.stop, ROWS):
            stop = min(start + ROWS, rows.stop)
            if self.cache is not None and (start, stop) in self.cache:
                yield self.cache[start, stop].double()
                continue
            index = self.order[start:stop]
            left = self.measure.left(index)
            block = torch.cat([self.measure.squared(left, index, j) for j in blocks(self.measure.shape[1])], 1)
            if self.cache is not None:
                self.cache[start, stop] = block.float()
            yield block


def _spread(x: Tensor) -> Tensor:
    """Standard deviation (d,) float64 of each feature, 1 for a constant one."""
    mean = mean_row(x)
    squares = torch.stack([(x[i].double() - mean).square_().sum(0) for i in blocks(len(x))])
    spread = (squares.sum(0) / (len(x) - 1)).sqrt()
    return torch.where(spread > 0, spread, torch.ones_like(spread))


def _shuffled(x: Tensor, random: torch.Generator) -> Tensor:
    return torch.randperm(len(x), generator=random).to(x.device)
