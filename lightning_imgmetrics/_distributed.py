"""Collectives: a rendezvous with a timeout, sums, and gathers of ragged tables."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from lightning_imgmetrics._compat.torch import default_store
from lightning_imgmetrics.errors import MissingRanks

DAY = 86400.0  # seconds that ranks of different speed may need for their share of the work


def world(group: Any = None) -> tuple[int, int]:
    """(rank, world size); (0, 1) without a process group."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank(group), dist.get_world_size(group)


def sync_timeout(minimum: float | None = None) -> float:
    """Seconds a rank waits for the others at a point that all reach: `IMGMETRICS_SYNC_TIMEOUT` (45), or `minimum`
    where that is more."""
    return max(float(os.environ.get("IMGMETRICS_SYNC_TIMEOUT", "45")), minimum or 0.0)


def rendezvous(what: str, group: Any = None, *, timeout: float | None = None, failure: str = "") -> None:
    """Wait until every rank arrives; after `timeout` seconds raise MissingRanks, which names those that did not.

    A collective that some ranks never enter hangs until the backend times out, half an hour later. The store behind
    the process group works for every backend, so the usual cause (a hook under `rank_zero_only`) is reported at once.
    A rank that failed passes `failure`: the waiting ranks then raise with this message instead of waiting further.
    """
    rank, size = world(group)
    if size == 1:
        return
    store = default_store()
    scope = f"imgmetrics/{'world' if group is None else group.group_name}"
    # Each rank counts its calls in the store itself, which lives as long as the process group.
    key = f"{scope}/{store.add(f'{scope}/calls/{rank}', 1)}"
    if failure:
        store.set(f"{key}/failure", f"rank {rank}: {failure}")
    store.set(f"{key}/{rank}", "")
    if store.add(f"{key}/count", 1) == size or failure:
        store.set(f"{key}/go", "")
    seconds = sync_timeout() if timeout is None else timeout
    try:
        store.wait([f"{key}/go"], timedelta(seconds=seconds))
    except (dist.DistStoreError, RuntimeError) as error:
        missing = [r for r in range(size) if not store.check([f"{key}/{r}"])]
        raise MissingRanks(
            f"{what} needs every rank, but after {seconds:g} s ranks {missing} of {size} have not reached it. Metrics"
            " sync over all ranks: call them on all, never under `rank_zero_only` or `if rank == 0`. If the ranks are"
            " only slow, raise IMGMETRICS_SYNC_TIMEOUT (seconds)."
        ) from error
    if not failure and store.check([f"{key}/failure"]):
        raise MissingRanks(f"{what} was aborted because another rank failed ({store.get(f'{key}/failure').decode()})")


def collective_device(group: Any, local: torch.device) -> torch.device:
    """The device whose tensors the backend communicates: NCCL requires CUDA tensors, Gloo prefers the CPU's."""
    if "nccl" in dist.get_backend(group):
        return local if local.type == "cuda" else torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def sum_(x: Tensor, group: Any = None) -> None:
    """Sum `x` over ranks, in place."""
    device = collective_device(group, x.device)
    buffer = x.to(device)
    dist.all_reduce(buffer, group=group)
    if buffer is not x:
        x.copy_(buffer)


def gather_rows(tables: Sequence[Tensor], group: Any = None) -> list[Tensor]:
    """Concatenate each table (rows, ...) over ranks in rank order; each rank may hold any number of rows, also none.

    One gather of all row counts, then one per table that has rows on any rank, padded to the longest.
    """
    if not tables:
        return []
    size = dist.get_world_size(group)
    device = collective_device(group, tables[0].device)
    counts = torch.tensor([len(t) for t in tables], device=device)
    counts_of_ranks = [torch.empty_like(counts) for _ in range(size)]
    dist.all_gather(counts_of_ranks, counts, group=group)
    gathered = []
    for table, rows in zip(tables, torch.stack(counts_of_ranks, 1).tolist(), strict=True):
        if max(rows) == 0:
            gathered.append(table)
            continue
        padded = table.new_zeros((max(rows), *table.shape[1:]), device=device)
        padded[: len(table)] = table.to(device)
        parts = [torch.empty_like(padded) for _ in range(size)]
        dist.all_gather(parts, padded, group=group)
        gathered.append(torch.cat([part[:n] for part, n in zip(parts, rows, strict=True)]).to(table.device))
    return gathered
