"""What a command is to do, as plain data; importing this loads no framework."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from typing import Any

from lightning_imgmetrics.errors import ImgMetricsError, IncompatibleStates, MissingExtra, MissingWeights


class UsageError(ImgMetricsError, ValueError):
    """A command contradicts itself, lacks something, or names something that it cannot use."""


@contextmanager
def errors_of(option: str) -> Iterator[None]:
    """What is wrong with the thing that an option names is bad input, and the message names the option."""
    try:
        yield
    except (UsageError, MissingExtra, MissingWeights):
        raise
    except (ImgMetricsError, OSError) as error:
        names = f"source|{option.lstrip('-').replace('-', '_')}"  # that it has in Python
        argument = re.match(rf"`(?:{names})`(:?) ", str(error))
        between, rest = (argument[1], str(error)[argument.end() :]) if argument else (":", str(error))
        raise UsageError(f"{option}{between} {rest}") from error


@dataclass(frozen=True, kw_only=True)
class MetricSpec:
    """What is measured and how: all that is needed to build the same metrics elsewhere. Plain JSON.

    `settings` are "key.argument=value"; `class_names` are those of the labels, once the images are known; `per_prompt`
    asks for statistics over the samples of one prompt. `judge` is that of the metrics that ask one, `judge_options` its
    arguments, `questions` the file of a benchmark, `image_names` those of its images. `dtype=None` leaves each network
    its own.
    """

    metrics: tuple[str, ...]
    network: str | None = None
    protocol: str | None = None
    weights: str | None = None
    settings: tuple[str, ...] = ()
    intervals: bool = False
    seed: int | None = None
    dtype: str | None = "float32"
    compile: bool = False
    class_names: tuple[str, ...] | None = None
    per_prompt: bool = False
    judge: str | None = None
    temperature: float | None = None
    judge_options: Mapping[str, Any] = field(default_factory=dict)
    questions: str | None = None
    image_names: tuple[str, ...] | None = None

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> MetricSpec:
        listed: dict[str, Any] = {key: tuple(x) if isinstance(x, list) else x for key, x in values.items()}
        names = {field.name for field in fields(cls)}
        if names != listed.keys():
            unknown = ", ".join(sorted(names ^ listed.keys()))
            raise IncompatibleStates(f"it was written by another version, whose settings differ ({unknown})")
        return cls(**listed)

    @property
    def plain_precision(self) -> bool:
        """Whether networks run in float32 and not compiled."""
        return self.dtype in (None, "float32") and not self.compile


@dataclass(frozen=True, kw_only=True)
class Request:
    """An evaluation, or with `generated=None` the measurement of a reference, by the command named `command`.

    `source` and `rivals`: further images for each generated one, paired by name. `benchmark`: the images lie as those
    of a benchmark do, which says what their prompts are. `batch_size=None` finds one. `shard` is (i, k): the i-th of k
    shares, from 1. `run` is a folder for states saved every `save_every` seconds. `hashed`: identify the reference by
    its pixels. `neighbors`: find the nearest reference image of each generated one.
    """

    command: str
    spec: MetricSpec
    generated: str | None = None
    reference: str | None = None
    prompts: str | None = None
    target: str | None = None
    source: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()
    benchmark: str | None = None
    labels: str | None = None
    reference_labels: str | None = None
    limit: int | None = None
    alpha: str = "drop"
    max_failed: float = 0
    batch_size: int | None = None
    workers: int | None = None
    device: str = "auto"
    shard: tuple[int, int] = (1, 1)
    run: str | None = None
    resume: bool = False
    save_every: float = 30.0
    save_state: str | None = None
    neighbors: bool = False
    hashed: bool = False

    def __post_init__(self) -> None:
        i, k = self.shard
        if not 1 <= i <= k:
            raise UsageError(f"--shard must be I/K with 1 <= I <= K, got {i}/{k}")
        if k > 1 and (self.save_state is None or self.neighbors):
            raise UsageError("--shard needs --save-state FILE, and leaves all tables to `imgmetrics merge`")
        if self.resume and self.run is None:
            raise UsageError("--resume needs --run-dir DIR, the folder of the run to continue")
        if self.limit is not None and self.limit < 1:
            raise UsageError(f"--limit must be at least 1, got {self.limit}")
        if self.workers is not None and self.workers < 0:
            raise UsageError(f"--workers must be at least 0, got {self.workers}")
        if not self.save_every >= 0:
            raise UsageError(f"--save-every must be at least 0 seconds, got {self.save_every}")


def parse_shard(text: str | None) -> tuple[int, int]:
    """ "I/K" -> (i, k)."""
    i, _, k = (text or "1/1").partition("/")
    if not (i.isdecimal() and k.isdecimal()):
        raise UsageError(f"--shard must be I/K, such as 1/8, got {text!r}")
    return int(i), int(k)


def parse_batch_size(text: str) -> int | None:
    """A number, or None for "auto"."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UsageError(f"--batch-size must be a positive number or auto, got {text!r}")
    return int(text)


def parse_list(text: str) -> list[str]:
    """ "a,b" -> [a, b], without blanks."""
    return [part.strip() for part in text.split(",") if part.strip()]
