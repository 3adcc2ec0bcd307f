"""Processes that share one evaluation: how they find each other, and fail together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from lightning_imgmetrics._distributed import DAY, rendezvous, world
from lightning_imgmetrics.cli.request import UsageError


@contextmanager
def process_group(device_name: str = "auto") -> Iterator[tuple[int, int]]:
    """(rank, world size) of a process that torchrun started; (0, 1) of a lone one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ or dist.is_initialized():
        yield world()
        return
    device = None
    if torch.cuda.is_available() and device_name.startswith(("auto", "cuda")):
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    dist.init_process_group("gloo" if device is None else "nccl", device_id=device)
    try:
        yield world()
    finally:
        dist.destroy_process_group()


@contextmanager
def together(what: str) -> Iterator[None]:
    """All ranks leave the block, or all raise: a rank that failed in it reports to the others, which wait for it."""
    try:
        yield
    except Exception as error:
        if world()[1] > 1:
            rendezvous(what, timeout=DAY, failure=str(error) or type(error).__name__)
        raise
    rendezvous(what, timeout=DAY)


def gathered(x: Any) -> list[Any]:
    """`x` of each rank."""
    size = world()[1]
    if size == 1:
        return [x]
    everyone: list[Any] = [None] * size
    dist.all_gather_object(everyone, x)
    return everyone


def chosen_device(name: str) -> torch.device:
    """The device that `name` means; "auto" is this rank's GPU, else Apple's, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name} cannot be used: {str(error).splitlines()[0]}") from error
    return device


def default_workers() -> int:
    """Processes that decode, so many that the ranks of this machine leave a core to each other."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(0, min(8, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - 1))
