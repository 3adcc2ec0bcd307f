"""Private names of torch."""

from __future__ import annotations

import torch.distributed as dist


def default_store() -> dist.Store:
    """The key-value store behind the default process group, which torch has no public name for."""
    return dist.distributed_c10d._get_default_store()
