"""Feature likelihood divergence: the fit against autograd and Adam, what copies and poor samples do to it."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from lightning_imgmetrics.errors import NotEnoughSamples, ShapeError
from lightning_imgmetrics.functional import likelihood
from lightning_imgmetrics.functional.likelihood import feature_likelihood_divergence


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def samples(n: int, seed: int, shift: float = 0.0) -> Tensor:
    """Points near a 4-dimensional plane in 24 dimensions."""
    return (randn(n, 4, seed=seed) + shift) @ randn(4, 24, seed=99) + 0.3 * randn(n, 24, seed=seed + 50)


def terms(x: Tensor, centers: Tensor, log_variance: Tensor) -> Tensor:
    """log N(x_i; center_j, variance_j) + log(1 / m), the plain formula."""
    squared = (x[:, None] - centers).square().sum(2)
    normal = -squared / (2 * log_variance.exp()) - x.shape[1] / 2 * (log_variance + math.log(2 * math.pi))
    return normal - math.log(len(centers))


def fit(x: Tensor, centers: Tensor, batch: int) -> Tensor:
    """The published procedure by automatic differentiation and torch's Adam, without blocks."""
    d = x.shape[1]
    start = ((x[:, None] - centers).square().sum(2).amin(0) + 1e-3) / d
    log_variance, origin = start.log().requires_grad_(), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimizer, losses, mean = torch.optim.Adam([log_variance, origin], lr=0.5), [], x.mean(0)
    for epoch in range(50):
        found = []
        for part in x.split(batch):
            around = -0.81 * (part - mean).square().sum(1, keepdim=True) / (2 * origin.exp())
            around = around - d / 2 * (origin + math.log(2 * math.pi))
            loss = -torch.cat([terms(part, centers, log_variance), around], 1).logsumexp(1).mean() / d
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            log_variance.data.clamp_(-40, 40)
            found.append(float(loss.detach()))
        losses.append(sum(found) / len(found))
        if epoch > 5 and max(abs(losses[-1] - x) for x in losses[-5:]) < 5e-4:
            break
    return log_variance.detach()


def procedure(train: Tensor, test: Tensor, generated: Tensor, batch: int, cap: int) -> tuple[float, float]:
    mean, spread = test.mean(0), test.std(0)
    train, test, generated = ((x - mean) / spread for x in (train, test, generated))
    random = torch.Generator().manual_seed(0)
    centers = generated[torch.randperm(len(generated), generator=random)[:cap]]
    log_variance = fit(train[torch.randperm(len(train), generator=random)], centers, batch)
    on_test, on_train = (-terms(x, centers, log_variance).logsumexp(1).mean() / x.shape[1] for x in (test, train))
    order = torch.randperm(len(train), generator=random)
    half = min(len(centers), len(train) // 2)
    log_variance = fit(train[order[half:]], train[order[:half]], batch)
    baseline = -terms(test, train[order[:half]], log_variance).logsumexp(1).mean() / test.shape[1]
    return float(100 * (on_test - baseline)), float(100 * (on_train - on_test))


@pytest.mark.parametrize("cache", [0, 1 << 28])
@pytest.mark.parametrize("cap", [60, 10_000])
def test_fit_is_the_published_procedure(monkeypatch: pytest.MonkeyPatch, cache: int, cap: int) -> None:
    """Several steps an epoch, blocks that do not divide them, distances cached or computed again."""
    for name, value in (("BATCH", 90), ("ROWS", 40), ("CACHE", cache), ("CENTERS", cap)):
        monkeypatch.setattr(likelihood, name, value)
    train, test, generated = (samples(n, seed) for n, seed in ((210, 0), (120, 1), (100, 2)))
    expected = procedure(train.double(), test.double(), generated.double(), 90, cap)
    found = feature_likelihood_divergence(train, test, generated)
    assert [float(x) for x in found] == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_order_of_quality() -> None:
    train, test = samples(400, 0), samples(300, 1)
    fresh, _ = feature_likelihood_divergence(train, test, samples(200, 2))
    shifted, _ = feature_likelihood_divergence(train, test, samples(200, 2, shift=1.0))
    blurred, _ = feature_likelihood_divergence(train, test, samples(200, 2) + 0.5 * randn(200, 24))
    assert abs(float(fresh)) < 5
    assert float(fresh) + 5 < float(shifted)
    assert float(fresh) + 5 < float(blurred)


def test_copies_show_in_the_gap_and_in_the_divergence() -> None:
    train, test = samples(400, 0), samples(300, 1)
    _, honest = feature_likelihood_divergence(train, test, samples(200, 2))
    half = torch.cat([train[:100], samples(100, 2)])
    _, half_copied = feature_likelihood_divergence(train, test, half)
    all_copied, _ = feature_likelihood_divergence(train, test, train[:200])
    assert -20 < float(honest) < 5
    assert float(half_copied) < -100
    assert float(all_copied) > 1000


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_scale_dtype_and_callers_modes_do_not_matter(dtype: torch.dtype) -> None:
    train, test, generated = (samples(n, seed).half() for n, seed in ((120, 0), (80, 1), (60, 2)))
    expected = feature_likelihood_divergence(train, test, generated)
    before = torch.get_rng_state()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        found = feature_likelihood_divergence(train.to(dtype), test.to(dtype), generated.to(dtype))
    assert torch.equal(torch.get_rng_state(), before)
    assert [float(x) for x in found] == pytest.approx([float(x) for x in expected], abs=1e-3)
    scaled = feature_likelihood_divergence(*(x.double() * 8 + 3 for x in (train, test, generated)))
    assert [float(x) for x in scaled] == pytest.approx([float(x) for x in expected], abs=1e-3)


def test_constant_features_and_seeds() -> None:
    train, test, generated = (samples(n, seed) for n, seed in ((120, 0), (80, 1), (60, 2)))
    for x in (train, test, generated):
        x[:, 3] = 1.0
    first = feature_likelihood_divergence(train, test, generated)
    assert all(x.isfinite() and x.dtype == torch.float64 for x in first)
    assert first == feature_likelihood_divergence(train, test, generated)
    assert first[0] != feature_likelihood_divergence(train, test, generated, seed=1)[0]


def test_refusals() -> None:
    x = samples(10, 0)
    with pytest.raises(NotEnoughSamples, match="`test`"):
        feature_likelihood_divergence(x, x[:1], x)
    with pytest.raises(NotEnoughSamples, match="`train`"):
        feature_likelihood_divergence(x[:3], x, x)
    with pytest.raises(NotEnoughSamples, match="`generated`"):
        feature_likelihood_divergence(x, x, x[:0])
    with pytest.raises(ShapeError, match="`generated`"):
        feature_likelihood_divergence(x, x, x[:, :3])
