"""torch still has the private names that `_compat.torch` uses."""

from __future__ import annotations

import pytest
import torch.distributed as dist

from lightning_imgmetrics._compat.torch import default_store


def test_the_default_group_has_a_store() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        store = default_store()
        assert (store.add("key", 2), store.add("key", 3), store.check(["key"])) == (2, 5, True)
    except AttributeError as error:
        pytest.fail(
            f"torch changed: `_compat.torch.default_store` needs another way to the process group's store: {error}"
        )
    finally:
        dist.destroy_process_group()
