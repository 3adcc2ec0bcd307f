"""k-nearest-neighbor geometry against scipy's float64 distances and torch-fidelity, with duplicates and copies."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from scipy.spatial.distance import cdist
from torch import Tensor
from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

from lightning_imgmetrics.errors import NonFiniteFeatures, NotEnoughSamples, ShapeError
from lightning_imgmetrics.functional import distances
from lightning_imgmetrics.functional.distances import Euclidean, ordered_sum
from lightning_imgmetrics.functional.manifold import (
    authenticity,
    ball_counts,
    density_coverage,
    kth_radius,
    largest_cosine,
    nearest,
    precision_recall,
    realism,
)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sets(case: str) -> tuple[Tensor, Tensor]:
    real, fake = randn(1200, 12), randn(1050, 12, seed=1) * 0.8 + 0.1
    if case == "copies":
        fake[:500], real[900:1000] = real[100:600], real[:100]
    elif case == "identical sets":
        fake = real.clone()
    elif case == "float16":
        real, fake = real.half(), fake.half()
    elif case == "grid":  # many ties between different pairs
        real, fake = (real[:, :4] * 2).round(), (fake[:, :4] * 2).round()
    elif case == "far from the origin":
        real, fake = real.double() + 1e6, fake.double() + 1e6
    elif case == "collapsed":
        fake[:], real[:300] = fake[0].clone(), real[0].clone()
    elif case == "tight cluster":
        real[:400] = real[0] + 1e-5 * real[:400]
    elif case == "huge":
        real, fake = real * 1e25, fake * 1e25
    elif case == "tiny":
        real, fake = real * 1e-30, fake * 1e-30
    return real, fake


CASES = ["random", "copies", "identical sets", "float16", "grid", "far from the origin", "collapsed", "tight cluster"]
CASES += ["huge", "tiny"]


def definition(x: Tensor, y: Tensor) -> Tensor:
    return torch.from_numpy(cdist(x.double().numpy(), y.double().numpy()))


def among_themselves(x: Tensor) -> Tensor:
    return definition(x, x).fill_diagonal_(math.inf)


def shares(world: int) -> list[tuple[int, int]]:
    return [(rank, world) for rank in range(world)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("k", [1, 4])
def test_nearest_and_ball_counts_are_the_definition(case: str, k: int) -> None:
    real, fake = sets(case)
    expected, order = among_themselves(real).sort(dim=1, stable=True)
    distance, index = nearest(real, real, k, exclude_self=True)
    torch.testing.assert_close(distance, expected[:, :k], rtol=1e-13, atol=0)
    assert torch.equal(index, order[:, :k])
    radius_real, radius_fake = expected[:, k - 1], among_themselves(fake).kthvalue(k).values
    own = kth_radius(real, k), kth_radius(fake, k)
    cross = definition(real, fake)
    for strict, inside in ((True, torch.lt), (False, torch.le)):
        in_real, in_fake = inside(cross, radius_real[:, None]), inside(cross, radius_fake)
        found = ball_counts(real, fake, *own, strict=strict)
        for count, mask, axis in zip(found, (in_real, in_fake, in_real), (0, 1, 1), strict=True):
            assert torch.equal(count, mask.sum(axis))
        for scalar, mean in zip(
            (*precision_recall(*found[:2]), *density_coverage(found[0], found[2], k)),
            (in_real.any(0), in_fake.any(1), in_real.sum(0) / k, in_real.any(1)),
            strict=True,
        ):
            assert scalar.dtype == torch.float64
            assert float(scalar) == pytest.approx(float(mean.double().mean()), rel=1e-12)


@pytest.mark.parametrize("case", ["copies", "far from the origin", "tight cluster"])
def test_precision_and_recall_as_torch_fidelity(case: str) -> None:
    """Its `cdist` multiplies matrices where there are more than 25 rows, so copies and clusters come out otherwise."""
    real, fake = (x[:25].double() for x in sets(case))
    fake[:9] = real[3:12]
    theirs = prc_features_to_metric(
        fake, real, prc_neighborhood=3, prc_batch_size=10000, save_cpu_ram=False, verbose=False
    )
    counts = ball_counts(real, fake, kth_radius(real, 3), kth_radius(fake, 3), strict=False)
    precision, recall = precision_recall(*counts[:2])
    assert float(precision) == pytest.approx(theirs[KEY_METRIC_PRECISION], abs=1e-6)
    assert float(recall) == pytest.approx(theirs[KEY_METRIC_RECALL], abs=1e-6)


@pytest.mark.parametrize("case", ["random", "copies", "collapsed", "float16"])
def test_nearest_of_another_set(case: str) -> None:
    real, fake = sets(case)
    expected, order = definition(real, fake).sort(dim=1, stable=True)
    distance, index = nearest(real, fake, 3)
    torch.testing.assert_close(distance, expected[:, :3], rtol=1e-13, atol=0)
    assert torch.equal(index, order[:, :3])


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 30), st.integers(1, 5), st.integers(1, 6), st.integers(0, 1000))
def test_few_points_and_ties(n: int, d: int, k: int, seed: int) -> None:
    points = torch.randint(0, 3, (n, d), generator=torch.Generator().manual_seed(seed)).float()
    if n <= k:
        with pytest.raises(NotEnoughSamples):
            nearest(points, points, k, exclude_self=True)
        return
    expected, order = among_themselves(points).sort(dim=1, stable=True)
    distance, index = nearest(points, points, k, exclude_self=True)
    torch.testing.assert_close(distance, expected[:, :k], rtol=1e-15, atol=0)
    assert torch.equal(index, order[:, :k])


@pytest.mark.parametrize("case", ["copies", "grid", "collapsed"])
def test_shares_sum_to_the_whole_bit_by_bit(case: str) -> None:
    real, fake = sets(case)
    radii = kth_radius(real, 3), kth_radius(fake, 3)

    def everything(share: tuple[int, int]) -> list[Tensor]:
        return [
            *nearest(real, real, 3, exclude_self=True, share=share),
            *nearest(fake, real, 2, share=share),
            *ball_counts(real, fake, *radii, strict=False, share=share),
            realism(fake, real, radii[0], share=share),
            authenticity(fake, real, share=share),
            largest_cosine(fake, real, share=share),
        ]

    whole = everything((0, 1))
    for world in (2, 3):
        parts = [everything(share) for share in shares(world)]
        for found, expected in zip(zip(*parts, strict=True), whole, strict=True):
            assert torch.equal(sum(found), expected)


@pytest.mark.parametrize("block", [7, 100])
def test_results_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    real, fake = (x[:150] for x in sets("copies"))
    before = [*nearest(real, real, 3, exclude_self=True), largest_cosine(fake, real), authenticity(fake, real)]
    monkeypatch.setattr(distances.blocks, "__defaults__", ((0, 1), block))
    after = [*nearest(real, real, 3, exclude_self=True), largest_cosine(fake, real), authenticity(fake, real)]
    for x, y in zip(before, after, strict=True):
        assert torch.equal(x, y)


def test_precision_is_not_the_callers() -> None:
    real, fake = sets("random")
    expected = nearest(fake, real, 2)
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        found = nearest(fake, real, 2)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("case", ["random", "grid", "huge"])
def test_lower_bounds_hold_and_are_near(case: str) -> None:
    real, fake = (x[:300] for x in sets(case))
    measure = Euclidean(real, fake)
    low = measure.lower(measure.left(slice(0, 300)), slice(0, 300)).double()
    i, j = torch.meshgrid(torch.arange(300), torch.arange(300), indexing="ij")
    exact = (definition(real, fake) * measure.unit).square()
    assert (low <= exact).all()
    assert (low + measure.gap(i, j) >= exact).all()


def test_squared_distances_with_spread() -> None:
    """The likelihood's distances: scaled features, close pairs exact."""
    real, fake = (x[:200] for x in sets("copies"))
    spread = torch.linspace(0.5, 2, 12, dtype=torch.float64)
    measure = Euclidean(real, fake, spread=spread)
    rows = torch.arange(200)
    found = measure.squared(measure.left(rows), rows, slice(0, 200))
    expected = definition(real / spread, fake / spread).square()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-12)
    assert (found == 0).sum() == (expected < 1e-20).sum() == 100


@pytest.mark.parametrize("case", ["random", "copies", "far from the origin"])
def test_realism_is_its_definition(case: str) -> None:
    real, fake = sets(case)
    radius = kth_radius(real, 3)
    kept = radius <= float(np.median(radius.numpy()))
    cross = definition(real, fake)[kept]
    ratio = torch.where(cross == 0, math.inf, radius[kept, None] / cross).amax(0)
    torch.testing.assert_close(realism(fake, real, radius), ratio, rtol=1e-12, atol=0)


def test_realism_of_copies() -> None:
    real = torch.tensor([[0.0], [1.0], [1.0], [5.0], [9.0]])
    radius = kth_radius(real, 1)  # 1, 0, 0, 4, 4: the median is 1
    found = realism(torch.tensor([[1.0], [0.0], [2.0], [5.0]]), real, radius)
    assert found.tolist() == [math.inf, math.inf, 0.5, 0.2]


@pytest.mark.parametrize("case", ["random", "copies", "identical sets", "collapsed"])
def test_authenticity_is_its_definition(case: str) -> None:
    real, fake = sets(case)
    distance, index = definition(fake, real).min(1)
    expected = among_themselves(real).amin(1)[index] < distance
    assert torch.equal(authenticity(fake, real), expected.double())
    if case == "identical sets":
        assert not authenticity(fake, real).any()


@pytest.mark.parametrize("case", ["random", "copies", "float16", "collapsed", "tight cluster", "huge"])
def test_largest_cosine_is_its_definition(case: str) -> None:
    real, fake = sets(case)
    fake[3] = 0
    unit_real, unit_fake = (torch.nn.functional.normalize(x.double(), dim=1) for x in (real, fake))
    expected = (unit_fake @ unit_real.T).abs().amax(1)
    torch.testing.assert_close(largest_cosine(fake, real), expected, rtol=1e-13, atol=1e-15)
    assert largest_cosine(fake, real)[3] == 0
    assert largest_cosine(-2 * real, real).min() == pytest.approx(1, abs=1e-15)


def test_memory_is_that_of_blocks() -> None:
    """The largest tensor of 6000 x 6000 pairs is a block of 1024 x 1024, not the 144 MB of all pairs."""

    class Largest(torch.utils._python_dispatch.TorchDispatchMode):
        elements = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            for x in result if isinstance(result, tuple | list) else [result]:
                if isinstance(x, Tensor):
                    self.elements = max(self.elements, x.numel())
            return result

    real, fake = randn(6000, 8), randn(6000, 8, seed=1)
    with Largest() as largest:
        radius = kth_radius(real, 3)
        ball_counts(real, fake, radius, radius, strict=True)
        largest_cosine(fake, real)
    assert largest.elements <= 2 * 1024**2


@pytest.mark.parametrize("d", [1, 2, 3, 7, 64, 100])
def test_ordered_sum(d: int) -> None:
    x = randn(5, d).double()
    torch.testing.assert_close(ordered_sum(x.clone()), x.sum(1), rtol=1e-13, atol=1e-14)
    assert torch.equal(ordered_sum(x[2:3].clone()), ordered_sum(x.clone())[2:3])


def test_refusals() -> None:
    x = randn(4, 2)
    with pytest.raises(NotEnoughSamples, match="4 samples and needs 5"):
        kth_radius(x, 4)
    with pytest.raises(ShapeError, match="`fake`"):
        ball_counts(x, randn(4, 3), x[:, 0], x[:, 0], strict=True)
    with pytest.raises(ShapeError, match="`points`"):
        nearest(x, x[:3], exclude_self=True)
    with pytest.raises(NonFiniteFeatures):
        nearest(x, torch.full((4, 2), math.nan))
    with pytest.raises(NonFiniteFeatures):
        largest_cosine(x, torch.full((4, 2), math.nan))
