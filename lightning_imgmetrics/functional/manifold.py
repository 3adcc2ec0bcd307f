"""Geometry of k-nearest-neighbor balls: precision, recall, density, coverage, realism, authenticity, copies.

Comparisons are exact: where float32 rounding could matter, the direct float64 difference of two rows decides.
`share` = (rank, world size) selects blocks of a fixed grid; results are 0 for the others, and their sum is the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lightning_imgmetrics._precision import full_precision
from lightning_imgmetrics._shapes import bind_shapes
from lightning_imgmetrics.functional.distances import TINY, Cosine, Euclidean, Left, blocks
from lightning_imgmetrics.functional.neighbors import search

Share = tuple[int, int]


def nearest(
    queries: Tensor, points: Tensor, k: int = 1, *, exclude_self: bool = False, share: Share = (0, 1)
) -> tuple[Tensor, Tensor]:
    """Euclidean distances (n, k) float64, ascending, and indices (n, k) of the `points` (m, d) nearest to each query.

    `queries` (n, d). `exclude_self`: `queries` is `points`, and row i is no neighbor of itself, though its duplicates
    are. Of equal distances the smaller index comes first. NotEnoughSamples if there are fewer than k other points.

    >>> nearest(torch.tensor([[0.0]]), torch.tensor([[3.0], [1.0]]), k=2)
    (tensor([[1., 3.]], dtype=torch.float64), tensor([[1, 0]]))
    """
    bind_shapes(queries=(queries, "n d"), points=(points, "n d" if exclude_self else "m d"))
    own = torch.arange(len(points), device=points.device) if exclude_self else None
    return search(Euclidean(queries, points), k, own=own, mirror=exclude_self, share=share)


def kth_radius(points: Tensor, k: int, *, share: Share = (0, 1)) -> Tensor:
    """Distance (n,) float64 of each row of `points` (n, d) to its k-th nearest other row, in feature units.

    >>> kth_radius(torch.tensor([[0.0], [1.0], [3.0]]), 1)
    tensor([1., 1., 2.], dtype=torch.float64)
    """
    return nearest(points, points, k, exclude_self=True, share=share)[0][:, -1]


def ball_counts(
    real: Tensor, fake: Tensor, real_radius: Tensor, fake_radius: Tensor, *, strict: bool, share: Share = (0, 1)
) -> tuple[Tensor, Tensor, Tensor]:
    """Counts of points in balls, from `real` (n, d), `fake` (m, d) and the radii (n,), (m,) of the balls around them.

    Returns int64: the real balls that contain each fake (m,), the fake balls that contain each real (n,), the fakes in
    the ball of each real (n,). `strict`: balls are open (Naeem et al. 2020), else closed (Kynkäänniemi et al. 2019).

    >>> real, fake = torch.tensor([[0.0], [1.0], [5.0]]), torch.tensor([[0.5], [9.0]])
    >>> ball_counts(real, fake, kth_radius(real, 1), kth_radius(fake, 1), strict=True)
    (tensor([2, 0]), tensor([1, 2, 2]), tensor([1, 1, 0]))
    """
    bind_shapes(real=(real, "n d"), fake=(fake, "m d"), real_radius=(real_radius, "n"), fake_radius=(fake_radius, "m"))
    inside = torch.lt if strict else torch.le
    radius_x, radius_y = real_radius.double(), fake_radius.double()
    with full_precision(real.device):
        counts = [torch.zeros(n, dtype=torch.int64, device=real.device) for n in (len(fake), len(real), len(real))]
        measure = Euclidean(real, fake)
        across = list(blocks(len(fake)))
        for a, i in enumerate(blocks(len(real))):
            left = measure.left(i)
            for j in across[(share[0] - a * len(across)) % share[1] :: share[1]]:
                rows, columns, distance = _close_pairs(measure, left, i, j, radius_x, radius_y)
                in_real = inside(distance, radius_x[rows])
                counts[0] += torch.bincount(columns[in_real], minlength=len(fake))
                counts[1] += torch.bincount(rows[inside(distance, radius_y[columns])], minlength=len(real))
                counts[2] += torch.bincount(rows[in_real], minlength=len(real))
    return counts[0], counts[1], counts[2]


def precision_recall(in_real: Tensor, in_fake: Tensor) -> tuple[Tensor, Tensor]:
    """Scalars in [0, 1] from `ball_counts`: share of fakes in a real ball, and of reals in a fake ball.

    Source: Kynkäänniemi et al. 2019.

    >>> precision_recall(torch.tensor([2, 0]), torch.tensor([1, 1, 2]))
    (tensor(0.5000, dtype=torch.float64), tensor(1., dtype=torch.float64))
    """
    return (in_real > 0).double().mean(), (in_fake > 0).double().mean()


def density_coverage(in_real: Tensor, hits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Density >= 0 and coverage in [0, 1], scalars, from `ball_counts`: `in_real` (m,) and `hits` (n,).

    Density is the mean number of real balls around a fake over k, coverage the share of reals with a fake in their
    ball. Source: Naeem et al. 2020.

    >>> density_coverage(torch.tensor([2, 0]), torch.tensor([1, 1, 0]), k=1)
    (tensor(1., dtype=torch.float64), tensor(0.6667, dtype=torch.float64))
    """
    return in_real.double().mean() / k, (hits > 0).double().mean()


def realism(fake: Tensor, real: Tensor, real_radius: Tensor, *, share: Share = (0, 1)) -> Tensor:
    """Largest radius / distance (m,) of each row of `fake` (m, d) over `real` (n, d); at least 1 inside a real ball.

    Balls larger than the median are left out (Kynkäänniemi et al. 2019). A fake at distance 0 from a real whose ball
    counts scores infinity, even if duplicates among the reals give that ball radius 0.

    >>> realism(torch.tensor([[0.5], [9.0]]), real := torch.tensor([[0.0], [1.0], [5.0]]), kth_radius(real, 1))
    tensor([2.0000, 0.1250], dtype=torch.float64)
    """
    bind_shapes(fake=(fake, "m d"), real=(real, "n d"), real_radius=(real_radius, "n"))
    radius = real_radius.double()
    small = radius <= radius.quantile(0.5)
    score = torch.zeros(len(fake), dtype=torch.float64, device=fake.device)
    local = torch.zeros_like(score, dtype=torch.bool)
    for block in blocks(len(fake), share):
        local[block] = True
    for balls in (small & (radius > 0), small & (radius == 0)):
        if balls.any():
            unit = radius[balls] if radius[balls].all() else None
            distance = search(Euclidean(fake, real[balls], radius=unit), 1, share=share)[0][:, 0]
            ratio = 1 / distance if unit is not None else torch.where(distance == 0, torch.inf, 0.0)
            score = torch.where(local, torch.maximum(score, ratio), 0.0)
    return score


def authenticity(fake: Tensor, real: Tensor, *, share: Share = (0, 1)) -> Tensor:
    """1.0 (m,) for each row of `fake` (m, d) that is authentic, else 0.0 (Alaa et al. 2022).

    A fake is authentic if its nearest row of `real` (n, d), n >= 2, is nearer to another real than to the fake.

    >>> authenticity(torch.tensor([[0.1], [9.0]]), torch.tensor([[0.0], [1.0], [5.0]]))
    tensor([0., 0.], dtype=torch.float64)
    """
    distance, index = nearest(fake, real, share=share)
    result = torch.zeros(len(fake), dtype=torch.float64, device=fake.device)
    local = [torch.arange(b.start, b.stop, device=fake.device) for b in blocks(len(fake), share)]
    if local:
        rows = torch.cat(local)
        own, inverse = index[rows, 0].unique(return_inverse=True)
        radius = search(Euclidean(real[own], real), 1, own=own)[0][:, 0]
        result[rows] = (radius[inverse] < distance[rows, 0]).double()
    return result


def largest_cosine(queries: Tensor, points: Tensor, *, share: Share = (0, 1)) -> Tensor:
    """max |cos| (n,) float64 in [0, 1] of each row of `queries` (n, d) over `points` (m, d); 0 for a row of zeros.

    >>> largest_cosine(torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    tensor([0.7071], dtype=torch.float64)
    """
    return -search(Cosine(queries, points), 1, share=share)[0][:, 0].clamp(min=-1)


def _close_pairs(
    measure: Euclidean, left: Left, i: slice, j: slice, radius_x: Tensor, radius_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and distances of the pairs of a block that may lie in a ball; exact near its surface."""
    low = measure.lower(left, j)
    limit_x, limit_y = ((measure.unit * r).square().mul_(1 + 2.0**-20) + TINY for r in (radius_x, radius_y))
    rows, columns = (low <= torch.maximum(limit_x[i, None].float(), limit_y[j].float())).nonzero(as_tuple=True)
    bound, rows, columns = low[rows, columns].double(), rows + i.start, columns + j.start
    high = bound + measure.gap(rows, columns)
    distance = ((bound + high) / 2).clamp_(min=0).sqrt_().div_(measure.unit)
    undecided = torch.zeros_like(rows, dtype=torch.bool)
    for limit in (limit_x[rows], limit_y[columns]):
        undecided |= (bound <= limit) & (high >= limit / (1 + 2.0**-19))
    distance[undecided] = measure.exact(rows[undecided], columns[undecided])
    return rows, columns, distance
