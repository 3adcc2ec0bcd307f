"""Where the images come from: any callable, with randomness by sample, checked when they come in."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from callback_parts import PROMPTS, Painter, data, loaders, monitor, trainer, values
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from lightning_imgmetrics import (
    CLIPScore,
    FrechetDistance,
    LearnedPerceptualImagePatchSimilarity,
    PairedImages,
    noise,
)
from lightning_imgmetrics.callback.sampler import PairedSampler
from lightning_imgmetrics.errors import SamplerError

NOISE = (3, 8, 8)


def validate(root: Path, model: Painter | None = None, **kwargs: Any) -> Any:
    """One evaluation of the untrained model."""
    callback = monitor(kwargs.pop("metrics", None), **kwargs)
    run = trainer(root, callback, precision=kwargs.pop("precision", None))
    run.validate(model or Painter(), loaders()[1], verbose=False)
    return callback


# What a sampler may take


def drawn(generators: list[torch.Generator]) -> Tensor:
    return noise(generators, NOISE).sigmoid()


class TakesNothing(Painter):
    def sample(self) -> Tensor:
        return torch.rand(12, *NOISE)


class TakesIds(Painter):
    def sample(self, ids: list[int]) -> Tensor:
        assert ids == list(range(12))
        return data(12).tensors[0]


class TakesPrompts(Painter):
    def sample(self, prompts: list[str]) -> Tensor:
        assert prompts == [PROMPTS[i % 3] for i in range(12)]
        return torch.rand(12, *NOISE)


class TakesAll(Painter):
    def sample(self, ids: list[int], prompts: list[str], generators: list[torch.Generator]) -> Tensor:
        assert len(ids) == len(prompts) == len(generators) == 12
        return drawn(generators)


class TakesAnything(Painter):
    def sample(self, **arguments: Any) -> Tensor:
        assert set(arguments) == {"ids", "prompts", "generators"}
        return drawn(arguments["generators"])


class TakesOptions(Painter):
    def sample(self, generators: list[torch.Generator], steps: int = 4, *, guidance: float = 2.0) -> Tensor:
        assert (steps, guidance) == (4, 2.0)
        return drawn(generators)


@pytest.mark.parametrize("model", [TakesNothing, TakesIds, TakesPrompts, TakesAll, TakesAnything, TakesOptions])
def test_the_sample_method_takes_what_it_needs(tmp_path: Path, model: type[Painter]) -> None:
    assert validate(tmp_path, model(), batch_size=12, prompts=PROMPTS).results["fd"].n == 12


class Pipeline:
    def __call__(self, module: LightningModule, generators: list[torch.Generator]) -> Tensor:
        assert isinstance(module, Painter)
        return drawn(generators)

    def method(self, generators: list[torch.Generator]) -> Tensor:
        return drawn(generators)


def with_steps(steps: int, generators: list[torch.Generator]) -> Tensor:
    return drawn(generators)


@pytest.mark.parametrize(
    "sampler",
    [drawn, lambda generators: drawn(generators), Pipeline(), Pipeline().method, partial(with_steps, 7)],
    ids=["function", "lambda", "object", "method", "partial"],
)
def test_any_callable_is_a_sampler(tmp_path: Path, sampler: Any) -> None:
    assert values(validate(tmp_path, sampler=sampler)) == values(validate(tmp_path, sampler=drawn))


def test_any_form_of_images(tmp_path: Path) -> None:
    from torchvision.transforms.functional import to_pil_image

    images = (data(12).tensors[0] * 255).round().to(torch.uint8)
    forms = [
        lambda ids: images[ids],
        lambda ids: list(images[ids]),
        lambda ids: [to_pil_image(images[i]) for i in ids],
        lambda ids: images[ids].float() / 255,
    ]
    numbers = [values(validate(tmp_path, sampler=form)) for form in forms]
    assert numbers == [numbers[0]] * 4


def test_an_unknown_demand_is_refused_at_construction() -> None:
    with pytest.raises(SamplerError, match="`num_steps`"):
        monitor(sampler=lambda ids, num_steps: None)


def test_a_module_whose_sample_demands_more_is_refused(tmp_path: Path) -> None:
    class Demanding(Painter):
        def sample(self, generators: list[torch.Generator], guidance: float) -> Tensor:
            return drawn(generators)

    with pytest.raises(SamplerError, match="`guidance`"):
        validate(tmp_path, Demanding())


def test_a_module_without_sample_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    class Silent(Painter):
        sample = None

    with pytest.raises(SamplerError, match="Silent has no method `sample`"):
        validate(tmp_path, Silent())


def test_a_metric_with_prompts_needs_prompts() -> None:
    with pytest.raises(ValueError, match="'clip' needs `prompts`"):
        monitor({"clip": CLIPScore("digits-clip")})


# Randomness


def images_by_id(root: Path, **kwargs: Any) -> dict[int, Tensor]:
    """id -> image of one evaluation."""
    images: dict[int, Tensor] = {}

    def sampler(ids: list[int], generators: list[torch.Generator]) -> Tensor:
        out = drawn(generators)
        images.update(zip(ids, out, strict=True))
        return out

    validate(root, sampler=sampler, **kwargs)
    return images


def test_samples_are_fixed_by_id_and_seed(tmp_path: Path) -> None:
    first, again, other = (images_by_id(tmp_path, seed=seed) for seed in (3, 3, 4))
    assert all(torch.equal(first[i], again[i]) for i in range(12))
    assert not any(torch.equal(first[i], other[i]) for i in range(12))
    assert len({tuple(image.flatten().tolist()) for image in first.values()}) == 12


def test_more_samples_begin_with_the_same(tmp_path: Path) -> None:
    few, many = images_by_id(tmp_path), images_by_id(tmp_path, num_samples=20)
    assert all(torch.equal(few[i], many[i]) for i in few)


def test_samples_do_not_change_between_evaluations(tmp_path: Path) -> None:
    callback = monitor(sampler=drawn)
    trainer(tmp_path, callback, max_epochs=3).fit(Painter(), *loaders())
    assert len(set(values(callback))) == 1


def test_a_sampler_on_the_global_stream_repeats_itself(tmp_path: Path) -> None:
    callback = monitor(sampler=lambda ids: torch.rand(len(ids), *NOISE))
    trainer(tmp_path, callback).fit(Painter(), *loaders())
    assert len(set(values(callback))) == 1


def prompts_of(root: Path, **kwargs: Any) -> list[tuple[int, str]]:
    """(id, prompt) of each sample of one evaluation."""
    pairs: list[tuple[int, str]] = []

    def sampler(ids: list[int], prompts: list[str], generators: list[torch.Generator]) -> Tensor:
        pairs.extend(zip(ids, prompts, strict=True))
        return drawn(generators)

    validate(root, sampler=sampler, **kwargs)
    return pairs


def test_prompts_cycle(tmp_path: Path) -> None:
    assert prompts_of(tmp_path, prompts=PROMPTS, num_samples=8) == [(i, PROMPTS[i % 3]) for i in range(8)]


def test_prompts_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("one\ntwo\n")
    for file in (tmp_path / "prompts.txt", str(tmp_path / "prompts.txt")):
        assert prompts_of(tmp_path, prompts=file, num_samples=3) == [(0, "one"), (1, "two"), (2, "one")]


@pytest.mark.parametrize("prompts", [[], [1, 2], [None]])
def test_unusable_prompts_are_refused(prompts: Any) -> None:
    with pytest.raises(ValueError, match="`prompts`"):
        monitor(prompts=prompts)


# Pairs


class Trunk(nn.Module):
    """Feature maps for LPIPS."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)])

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = []
        for layer in self.layers:
            x = layer(x).relu()
            maps.append(x)
        return maps


class Autoencoder(Painter):
    def forward(self, images: Tensor) -> Tensor:
        return (0.8 * images + 0.1).clamp(0, 1)

    def sharpen(self, images: Tensor) -> Tensor:
        return images


def lpips() -> LearnedPerceptualImagePatchSimilarity:
    return LearnedPerceptualImagePatchSimilarity(Trunk(), normalize=True)


def test_paired_samples_are_measured_against_their_targets(tmp_path: Path) -> None:
    images = data(12, seed=4).tensors[0]
    metrics = {"lpips": lpips(), "rfd": FrechetDistance()}
    callback = validate(tmp_path, Autoencoder(), metrics=metrics, sampler=PairedSampler(list(images)))
    alone = lpips()
    alone.update(_stored(Autoencoder()(images)), _stored(images))
    assert callback.results["lpips"].n == 12
    assert values(callback, "lpips")[0] == pytest.approx(float(alone.compute()), rel=1e-5)
    assert values(callback, "lpips")[0] > 1e-4
    assert values(callback, "rfd")[0] > 0


def _stored(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


def test_pairs_of_input_and_target(tmp_path: Path) -> None:
    images = data(12, seed=4).tensors[0]
    pairs = list(zip(images, images.flip(3), strict=True))
    flipped = validate(tmp_path, Autoencoder(), metrics={"lpips": lpips()}, sampler=PairedSampler(pairs, "sharpen"))
    same = validate(tmp_path, Autoencoder(), metrics={"lpips": lpips()}, sampler=PairedSampler(list(images), "sharpen"))
    assert values(same, "lpips") == [pytest.approx(0, abs=1e-12)]
    assert values(flipped, "lpips")[0] > 1e-3


def test_a_paired_metric_without_targets_is_an_error(tmp_path: Path) -> None:
    with pytest.raises((TypeError, ValueError), match="target"):
        validate(tmp_path, metrics={"lpips": lpips()})


# What a sampler may not return


class Odd:
    """Returns `make(n)`."""

    def __init__(self, make: Any) -> None:
        self.make = make

    def __call__(self, ids: list[int]) -> Any:
        return self.make(len(ids))


BROKEN = {
    "too few": (lambda n: torch.rand(n - 1, *NOISE), "asked for 5, got 4"),
    "too many": (lambda n: torch.rand(n + 1, *NOISE), "asked for 5, got 6"),
    "nothing": (lambda n: None, "got None"),
    "empty": (lambda n: torch.rand(0, *NOISE), "at least one image"),
    "not a number": (lambda n: torch.full((n, *NOISE), torch.nan), "finite"),
    "out of range": (lambda n: 2 * torch.rand(n, *NOISE) - 1, r"must lie in \[0, 1\], got -"),
    "grey levels as floats": (lambda n: 255 * torch.rand(n, *NOISE), r"must lie in \[0, 1\], got"),
    "channels last": (lambda n: torch.rand(n, 8, 8, 3), "channels-last"),
    "two channels": (lambda n: torch.rand(n, 2, 8, 8), r"must be \(n, 3, h, w\)"),
    "one axis": (lambda n: torch.rand(n), r"must be \(n, 3, h, w\)"),
    "text": (lambda n: ["image"] * n, "PIL image"),
    "a number": (lambda n: 3, "PIL image"),
    "no target": (lambda n: PairedImages(torch.rand(n, *NOISE), None), "no `target`"),
    "too few targets": (lambda n: PairedImages(torch.rand(n, *NOISE), torch.rand(1, *NOISE)), "got 1"),
}


@pytest.mark.parametrize("broken", BROKEN)
def test_unusable_images_are_named(tmp_path: Path, broken: str) -> None:
    make, message = BROKEN[broken]
    with pytest.raises(SamplerError, match=message):
        validate(tmp_path, sampler=Odd(make))


def test_clamped_pixels_are_counted(tmp_path: Path) -> None:
    def sampler(generators: list[torch.Generator]) -> Tensor:
        images = drawn(generators)
        images[:, 0, 0, 0] = 1.01
        return images

    assert validate(tmp_path, sampler=sampler).results["fd"].details["n_clamped"] == 12


# Gradients


class Guided(Painter):
    """Classifier guidance: needs a gradient with respect to its own noise."""

    def sample(self, generators: list[torch.Generator]) -> Tensor:
        x = noise(generators, NOISE).requires_grad_()
        with torch.enable_grad():
            energy = (x - self.mean).square().sum()
            (gradient,) = torch.autograd.grad(energy, x)
        return (x - 0.1 * gradient).sigmoid()


class Plain(Painter):
    """Counts on gradients being enabled around it."""

    def sample(self, generators: list[torch.Generator]) -> Tensor:
        x = noise(generators, NOISE).requires_grad_()
        (gradient,) = torch.autograd.grad((x - self.mean).square().sum(), x)
        return (x - 0.1 * gradient).sigmoid()


def test_gradients_on_request(tmp_path: Path) -> None:
    wanted = validate(tmp_path, Plain(), gradients=True)
    assert values(wanted) == values(validate(tmp_path, Guided()))
    with pytest.raises(RuntimeError, match="does not require grad"):
        validate(tmp_path, Plain())


def test_gradients_leave_none_behind(tmp_path: Path) -> None:
    model = Plain()
    callback = monitor(gradients=True, every="1 steps")
    trainer(tmp_path, callback, max_epochs=1).fit(model, *loaders())
    plain = Plain()
    assert len(callback.history) == 3
    assert all(p.grad is None for p in plain.parameters())
    assert all(not value.requires_grad for value in callback.suite.named()["fd"].metric_state.values() if _is(value))


def _is(value: Any) -> bool:
    return isinstance(value, Tensor)


def test_no_gradient_and_no_inference_tensor_by_default(tmp_path: Path) -> None:
    seen: list[tuple[bool, bool]] = []

    def sampler(module: LightningModule, generators: list[torch.Generator]) -> Tensor:
        seen.append((torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
        return module.sample(generators)

    callback = validate(tmp_path, sampler=sampler)
    assert set(seen) == {(False, False)}
    states = [value for m in callback.suite.named().values() for value in m.metric_state.values() if _is(value)]
    assert states
    assert not any(state.is_inference() for state in states)


# Memory


class Small:
    """A device with room for `most` images."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.batches: list[int] = []

    def __call__(self, module: LightningModule, generators: list[torch.Generator]) -> Tensor:
        if len(generators) > self.most:
            next(torch.rand(3, generator=g) for g in generators)  # the attempt has used up randomness
            raise torch.OutOfMemoryError("no room")
        self.batches.append(len(generators))
        return module.sample(generators)


@pytest.mark.parametrize("most", [1, 3, 5])
def test_without_memory_the_batch_is_halved(tmp_path: Path, most: int) -> None:
    small = Small(most)
    halved = validate(tmp_path, sampler=small, num_samples=11, batch_size=11)
    whole = validate(tmp_path, num_samples=11, batch_size=11)
    assert values(halved) == pytest.approx(values(whole), rel=1e-9)
    assert sum(small.batches) == 11
    assert max(small.batches) <= most


def test_without_memory_for_one_image_the_error_is_the_device_s(tmp_path: Path) -> None:
    with pytest.raises(torch.OutOfMemoryError):
        validate(tmp_path, sampler=Small(0))


def test_halved_pairs_stay_pairs(tmp_path: Path) -> None:
    images = data(12, seed=4).tensors[0]
    paired = PairedSampler(list(images))

    def sampler(module: LightningModule, ids: list[int]) -> PairedImages:
        if len(ids) > 2:
            raise torch.OutOfMemoryError("no room")
        return paired(module, ids)

    halved = validate(tmp_path, Autoencoder(), metrics={"lpips": lpips()}, sampler=sampler)
    whole = validate(tmp_path, Autoencoder(), metrics={"lpips": lpips()}, sampler=paired)
    assert values(halved, "lpips") == pytest.approx(values(whole, "lpips"), rel=1e-6)


# Precision


def test_sampling_follows_the_trainer_and_measuring_does_not(tmp_path: Path) -> None:
    types: list[torch.dtype] = []
    images_of: dict[int, Tensor] = {}

    def sampler(module: LightningModule, ids: list[int], generators: list[torch.Generator]) -> Tensor:
        x = noise(generators, NOISE)
        out = module.body[0](x)
        types.append(out.dtype)
        images = out.float().sigmoid()
        images_of.update(zip(ids, images, strict=True))
        return images

    def run(precision: str, source: Any) -> Any:
        callback = monitor({"fd": FrechetDistance(), "clip": CLIPScore("digits-clip")}, sampler=source, prompts=PROMPTS)
        trainer(tmp_path, callback, precision=precision).validate(Painter(), loaders()[1], verbose=False)
        return callback.history[0]["values"]

    half = run("bf16-mixed", sampler)
    assert set(types) == {torch.bfloat16}
    images = torch.stack([images_of[i] for i in range(12)])
    full = run("32-true", lambda ids: images[ids])
    assert half == full


def test_more_samples_than_a_paired_dataset_has(tmp_path: Path) -> None:
    from lightning_imgmetrics import PairedSampler

    with pytest.raises(
        SamplerError, match=r"`num_samples` must be at most the 24 items of the paired dataset, got id 2"
    ):
        PairedSampler(data(24))(Painter(), [3, 24])


def test_a_metric_that_measures_no_images_is_refused() -> None:
    with pytest.raises(ValueError, match="metric 'win_rate' does not measure images"):
        monitor(["win_rate"])
