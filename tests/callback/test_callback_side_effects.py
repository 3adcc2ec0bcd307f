"""Training with and without the callback is bitwise the same."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from callback_parts import PROMPTS, Painter, data, loaders, monitor, trainer
from conftest import TinyNet
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint
from torch.utils.data import DataLoader

from lightning_imgmetrics import CLIPScore, FrechetDistance, ImageMetricsCallback, LPIPSDiversity


class Recorder(Callback):
    """Every random stream after each batch."""

    def __init__(self) -> None:
        self.streams: list[tuple[Any, ...]] = []

    def on_train_batch_end(self, *_: Any) -> None:
        numpy_state = np.random.get_state()
        self.streams.append(
            (torch.get_rng_state().tolist(), random.getstate(), numpy_state[1].tolist(), numpy_state[2:])
        )


def everything(**kwargs: Any) -> ImageMetricsCallback:
    metrics = {
        "fd": FrechetDistance(TinyNet()),
        "clip": CLIPScore("digits-clip"),
        "lpips": LPIPSDiversity("digits-clip"),
    }
    return monitor(metrics, prompts=PROMPTS, media=4, **kwargs)


def run(folder: Path, callback: Callback | None, **kwargs: Any) -> tuple[Trainer, Painter, Recorder]:
    seed_everything(7, verbose=False)
    recorder, model = Recorder(), Painter()
    callbacks = [*([callback] if callback else []), recorder, *kwargs.pop("others", [])]
    fit = trainer(folder, *callbacks, max_epochs=3, **kwargs)
    fit.fit(model, *loaders())
    return fit, model, recorder


Plain = Callable[[bool], tuple[Trainer, Painter, Recorder]]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Plain:
    """A fit without the callback, with or without weight averaging; made once for each."""

    @functools.cache
    def fit(averaging: bool) -> tuple[Trainer, Painter, Recorder]:
        return run(tmp_path_factory.mktemp("plain"), None, others=averages(averaging))

    return fit


def averages(averaging: bool) -> list[Callback]:
    return [EMAWeightAveraging(decay=0.7)] if averaging else []


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def sampler_that_uses_every_stream(module: LightningModule, ids: list[int]) -> torch.Tensor:
    random.random(), np.random.rand()
    return torch.rand(len(ids), 3, 8, 8)


@pytest.mark.parametrize("every", [1, "2 steps"])
@pytest.mark.parametrize("averaging", [False, True])
def test_training_is_bitwise_the_same(tmp_path: Path, plain: Plain, every: int | str, averaging: bool) -> None:
    fit, model, recorder = plain(averaging)
    reference = DataLoader(data(30, seed=5), 7, shuffle=True)
    callback = everything(every=every, reference=reference)
    watched, watched_model, watched_recorder = run(tmp_path, callback, others=averages(averaging))
    assert len(callback.history) >= 3
    assert same(model.state_dict(), watched_model.state_dict())
    assert same(fit.optimizers[0].state_dict(), watched.optimizers[0].state_dict())
    assert len(recorder.streams) == 9
    assert recorder.streams == watched_recorder.streams


def test_a_sampler_on_the_global_streams_leaves_them_alone(tmp_path: Path, plain: Plain) -> None:
    _, model, recorder = plain(False)
    _, watched_model, watched_recorder = run(tmp_path, monitor(sampler=sampler_that_uses_every_stream))
    assert recorder.streams == watched_recorder.streams
    assert same(model.state_dict(), watched_model.state_dict())


def keys(tree: Any, path: str = "") -> set[str]:
    if not isinstance(tree, dict):
        return {path}
    return {path}.union(*(keys(value, f"{path}/{key}") for key, value in tree.items()))


def test_checkpoint_gains_the_state_of_the_callback_alone(tmp_path: Path) -> None:
    def saved(name: str, callback: Callback | None) -> dict[str, Any]:
        checkpoint = ModelCheckpoint(tmp_path / name, filename="last", save_top_k=1)
        run(tmp_path, callback, others=[checkpoint], enable_checkpointing=True)
        return torch.load(tmp_path / name / "last.ckpt", weights_only=False)

    callback = everything()
    without, watched = saved("plain", None), saved("watched", callback)
    own = f"/callbacks/{callback.state_key}"
    assert {key for key in keys(watched) - keys(without) if key != own and not key.startswith(f"{own}/")} == set()
    assert keys(without) - keys(watched) == set()
    assert same(without["state_dict"], watched["state_dict"])
    assert same(without["optimizer_states"], watched["optimizer_states"])
    assert watched["callbacks"][callback.state_key] == {"history": callback.history}


def test_the_checkpoint_loads_without_running_code(tmp_path: Path) -> None:
    fit, _, _ = run(tmp_path, everything())
    fit.save_checkpoint(tmp_path / "safe.ckpt", weights_only=False)
    torch.load(tmp_path / "safe.ckpt", weights_only=True)


def test_training_flags_of_every_submodule_are_restored(tmp_path: Path) -> None:
    seen: list[dict[str, bool]] = []

    def sampler(module: LightningModule, ids: list[int]) -> torch.Tensor:
        seen.append({name: m.training for name, m in module.named_modules()})
        return torch.rand(len(ids), 3, 8, 8)

    class Flags(Callback):
        def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
            flags.append({name: m.training for name, m in pl_module.named_modules()})

    flags: list[dict[str, bool]] = []
    callback = monitor(sampler=sampler, every="1 steps")
    trainer(tmp_path, callback, Flags(), max_epochs=1, max_steps=3).fit(Painter(), *loaders())
    assert seen
    assert not any(any(modes.values()) for modes in seen)
    assert len(flags) == 3
    expected = {name: not name.startswith("frozen") for name, _ in Painter().named_modules()}
    assert all(modes == expected for modes in flags)


def test_gradients_of_an_accumulation_survive_an_evaluation(tmp_path: Path) -> None:
    """With accumulate_grad_batches an epoch's validation may fall between two backward passes."""
    kwargs = {"accumulate_grad_batches": 4, "val_check_interval": 2}
    _, model, _ = run(tmp_path, None, **kwargs)
    callback = everything()
    _, watched, _ = run(tmp_path, callback, **kwargs)
    assert callback.history
    assert same(model.state_dict(), watched.state_dict())
