"""Exactly N samples over any number of ranks, the same numbers on each, and errors where a rank would wait forever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from callback_parts import PROMPTS, Painter, Pixels, data, monitor, rank_trainer
from conftest import Worlds
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch.utils.data import DataLoader

from lightning_imgmetrics import CLIPScore, FrechetDistance, MetricSuite

Answer = dict[str, Any]


class Recording:
    """`module.sample` that records its calls and what it returned."""

    def __init__(self) -> None:
        self.calls: list[list[int]] = []
        self.images: dict[int, list[int]] = {}

    def __call__(self, module: LightningModule, ids: list[int], generators: list[torch.Generator]) -> torch.Tensor:
        images = module.sample(generators)
        self.calls.append(ids)
        self.images |= {i: (x * 255).round().to(torch.uint8).flatten().tolist() for i, x in zip(ids, images)}
        return images


def one_rank(rank: int, size: int, folder: str, names: tuple[str, ...], settings: dict[str, Any]) -> Answer:
    """What a rank saw of a fit whose weights stay as they are."""
    makers = {"fd": lambda: FrechetDistance(Pixels()), "clip": lambda: CLIPScore("digits-clip")}
    sampler = Recording()
    callback = monitor(
        {name: makers[name]() for name in names},
        sampler=sampler,
        prompts=PROMPTS,
        folder=f"{folder}/rank{rank}",
        **settings,
    )
    fit = rank_trainer(rank, size, folder, callback)
    fit.fit(Painter(lr=0.0), DataLoader(data(24), 4), DataLoader(data(23, seed=1), 4))
    return {
        "history": [{k: v for k, v in record.items() if k != "seconds"} for record in callback.history],
        "calls": sampler.calls,
        "images": sampler.images,
        "n": {name: result.n for name, result in callback.results.items()},
        "logged": {name: float(fit.callback_metrics[f"val/{name}"]) for name in names},
        "wrote": sorted(path.name for path in Path(f"{folder}/rank{rank}").glob("*")),
    }


def images_of(answers: list[Answer]) -> dict[int, list[int]]:
    return {i: image for answer in answers for i, image in answer["images"].items()}


def values_of(answer: Answer, name: str) -> list[float]:
    return [record["values"][name] for record in answer["history"]]


@pytest.mark.parametrize("num_samples", [12, 13])
@pytest.mark.parametrize("size", [2, 3])
def test_the_values_do_not_depend_on_the_number_of_ranks(
    worlds: Worlds, tmp_path: Path, size: int, num_samples: int
) -> None:
    names, settings = ("fd", "clip"), {"num_samples": num_samples}
    alone = one_rank(0, 1, str(tmp_path / "alone"), names, settings)
    answers = worlds(size, one_rank, str(tmp_path / "ranks"), names, settings)
    assert images_of(answers) == alone["images"]
    assert sorted(alone["images"]) == list(range(num_samples))
    for answer in answers:
        assert len(answer["history"]) == 2
        assert answer["history"] == answers[0]["history"]
        assert answer["n"] == {"fd": num_samples, "clip": num_samples}
        assert answer["logged"] == answer["history"][-1]["values"]
        assert len(answer["calls"]) == len(answers[0]["calls"])
        assert values_of(answer, "fd") == pytest.approx(values_of(alone, "fd"), rel=1e-9)
        assert values_of(answer, "clip") == pytest.approx(values_of(alone, "clip"), rel=1e-6)


@pytest.mark.parametrize("num_samples", [1, 2])
def test_fewer_samples_than_ranks(worlds: Worlds, tmp_path: Path, num_samples: int) -> None:
    settings = {"num_samples": num_samples}
    alone = one_rank(0, 1, str(tmp_path / "alone"), ("clip",), settings)
    answers = worlds(3, one_rank, str(tmp_path / "ranks"), ("clip",), settings)
    for answer in answers:
        assert answer["n"] == {"clip": num_samples}
        assert values_of(answer, "clip") == pytest.approx(values_of(alone, "clip"), rel=1e-6)
        assert len(answer["calls"]) == len(answers[0]["calls"])


def test_a_cached_reference_is_read_by_one_rank_for_all(worlds: Worlds, tmp_path: Path) -> None:
    first, again = (worlds(2, one_rank, str(tmp_path), ("fd",), {}) for _ in range(2))
    assert len(list((tmp_path / "cache").rglob("*.safetensors"))) == 1
    assert [answer["history"] for answer in again] == [answer["history"] for answer in first]


def test_rank_zero_alone_writes(worlds: Worlds, tmp_path: Path) -> None:
    answers = worlds(2, one_rank, str(tmp_path), ("fd",), {"num_samples": 9, "media": 8})
    pngs = ["val-samples-step-0000003.png", "val-samples-step-0000006.png"]
    assert answers[0]["wrote"] == ["results.jsonl", *pngs]
    assert answers[1]["wrote"] == []
    assert len((tmp_path / "rank0" / "results.jsonl").read_text().splitlines()) == 2


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_samples_do_not_depend_on_the_batch_size(tmp_path: Path, batch_size: int) -> None:
    alone = one_rank(0, 1, str(tmp_path / "a"), ("fd",), {"num_samples": 17})
    other = one_rank(0, 1, str(tmp_path / "b"), ("fd",), {"num_samples": 17, "batch_size": batch_size})
    assert other["images"] == alone["images"]
    assert max(map(len, other["calls"])) == min(batch_size, 17)
    assert values_of(other, "fd") == pytest.approx(values_of(alone, "fd"), rel=1e-9)


def global_stream(rank: int, size: int, folder: str) -> list[tuple[int, ...]]:
    def sampler(ids: list[int]) -> torch.Tensor:
        images = torch.rand(len(ids), 3, 8, 8)
        drawn.extend(tuple(image.flatten().tolist()) for image in images)
        return images

    drawn: list[tuple[int, ...]] = []
    fit = rank_trainer(rank, size, folder, monitor(sampler=sampler), max_epochs=1)
    fit.fit(Painter(), DataLoader(data(24), 4), DataLoader(data(23, seed=1), 4))
    return drawn


def test_a_sampler_on_the_global_stream_gives_every_rank_its_own_images(worlds: Worlds, tmp_path: Path) -> None:
    first, second = worlds(2, global_stream, str(tmp_path))
    assert len(set(first) | set(second)) == 12


# Misuse


class OnRankZero(Callback):
    """The mistake: a hook that only rank 0 runs."""

    def __init__(self, action: Any) -> None:
        self.action = action

    @rank_zero_only
    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.action(trainer, pl_module)


def outcome(rank: int, size: int, folder: str, callbacks: list[Callback]) -> tuple[str, str]:
    """The error that ends a fit of one step: type and message."""
    before = os.environ.get("IMGMETRICS_SYNC_TIMEOUT")
    os.environ["IMGMETRICS_SYNC_TIMEOUT"] = "3"
    try:
        fit = rank_trainer(rank, size, folder, *callbacks, max_steps=1)
        fit.fit(Painter(), DataLoader(data(16), 4), DataLoader(data(16, seed=1), 4))
    except Exception as error:
        return type(error).__name__, str(error)
    finally:
        if before is None:
            del os.environ["IMGMETRICS_SYNC_TIMEOUT"]
        else:
            os.environ["IMGMETRICS_SYNC_TIMEOUT"] = before
    return "", ""


def misuse_of_callback(rank: int, size: int, folder: str) -> tuple[str, str]:
    callback = monitor(every="100 steps")
    return outcome(rank, size, folder, [OnRankZero(callback.evaluate), callback])


def misuse_of_suite(rank: int, size: int, folder: str) -> tuple[str, str]:
    suite = MetricSuite({"clip": CLIPScore("digits-clip")})
    suite.update(data(4).tensors[0], prompts=PROMPTS[:1] * 4)
    return outcome(rank, size, folder, [OnRankZero(lambda trainer, module: suite.compute())])


@pytest.mark.parametrize("misuse", [misuse_of_callback, misuse_of_suite])
def test_a_call_on_rank_zero_alone_is_an_error(worlds: Worlds, tmp_path: Path, misuse: Any) -> None:
    name, message = worlds(2, misuse, str(tmp_path))[0]
    assert name == "MissingRanks"
    assert "ranks [1] of 2" in message
    assert "rank_zero_only" in message


def broken_on_rank_one(rank: int, size: int, folder: str) -> tuple[str, str]:
    def sampler(module: LightningModule, generators: list[torch.Generator]) -> torch.Tensor:
        if rank == 1:
            raise ZeroDivisionError("rank 1 has a bug")
        return module.sample(generators)

    return outcome(rank, size, folder, [monitor(sampler=sampler, every="1 steps")])


def test_a_sampler_that_fails_on_one_rank_fails_on_all(worlds: Worlds, tmp_path: Path) -> None:
    healthy, broken = worlds(2, broken_on_rank_one, str(tmp_path))
    assert broken == ("ZeroDivisionError", "rank 1 has a bug")
    assert healthy[0] == "MissingRanks"
    assert "another rank failed" in healthy[1]
    assert "rank 1: ZeroDivisionError: rank 1 has a bug" in healthy[1]


class Unreadable(torch.utils.data.Dataset):
    """A reference whose images of rank 1 cannot be read."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if index % 2:
            raise OSError(f"image {index} is damaged")
        return torch.rand(3, 8, 8)


def unreadable_reference(rank: int, size: int, folder: str, cache: bool) -> tuple[str, str]:
    return outcome(rank, size, folder, [monitor(reference=Unreadable(), every="1 steps", cache=cache)])


@pytest.mark.parametrize("cache", [True, False])
def test_a_reference_that_fails_on_one_rank_fails_on_all(worlds: Worlds, tmp_path: Path, cache: bool) -> None:
    healthy, broken = worlds(2, unreadable_reference, str(tmp_path), cache)
    assert broken[0] == "OSError"
    assert healthy[0] == "MissingRanks"
    assert "rank 1: OSError: image 1 is damaged" in healthy[1]


# Lightning's own launcher

SCRIPT = """
    import json, sys
    sys.path[:0] = sys.argv[1:3]
    from callback_parts import Painter, data, monitor, trainer
    from torch.utils.data import DataLoader

    callback = monitor(num_samples=13, folder=sys.argv[3] + "/written")
    fit = trainer(sys.argv[3], callback, strategy="ddp", devices=2, accelerator="cpu", max_epochs=1)
    fit.fit(Painter(lr=0.0), DataLoader(data(24), 4), DataLoader(data(23, seed=1), 4))
    with open(f"{sys.argv[3]}/rank{fit.global_rank}.json", "w") as file:
        json.dump([record["values"] for record in callback.history], file)
"""


@pytest.mark.slow
def test_ranks_that_lightning_launches(tmp_path: Path) -> None:
    alone = one_rank(0, 1, str(tmp_path), ("fd",), {"num_samples": 13})
    script = tmp_path / "fit.py"
    script.write_text(textwrap.dedent(SCRIPT))
    here = Path(__file__).parent
    subprocess.run([sys.executable, script, here, here.parent, tmp_path], check=True, timeout=200, capture_output=True)
    first, second = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert first[0]["fd"] == pytest.approx(values_of(alone, "fd")[0], rel=1e-9)
    assert len((tmp_path / "written" / "results.jsonl").read_text().splitlines()) == 1
