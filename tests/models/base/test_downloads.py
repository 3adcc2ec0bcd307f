"""Ranks that start together on one machine download a file once."""

from __future__ import annotations

import functools
import hashlib
import http.server
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from conftest import Worlds

from lightning_imgmetrics.errors import MissingWeights, WeightsMismatch
from lightning_imgmetrics.models.base.weights import ModelCard, find_weights

CONTENT = b"w" * 300_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class _Slow(http.server.SimpleHTTPRequestHandler):
    served: list[str]

    def do_GET(self) -> None:
        self.served.append(self.path)
        time.sleep(0.5)  # the other ranks are waiting by now
        super().do_GET()

    def log_message(self, *args: Any) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    (tmp_path / "net.pth").write_bytes(CONTENT)
    served: list[str] = []
    handler = functools.partial(type("Handler", (_Slow,), {"served": served}), directory=str(tmp_path))
    web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_address[1]}/net.pth", served
    web.shutdown()
    web.server_close()


def run_find(rank: int, size: int, url: str, home: str, digits: str, offline: str) -> str:
    kept = {k: os.environ.get(k) for k in ("TORCH_HOME", "HF_HUB_OFFLINE", "IMGMETRICS_OFFLINE")}
    os.environ.update(TORCH_HOME=home, HF_HUB_OFFLINE="0", IMGMETRICS_OFFLINE=offline)
    try:
        dist.barrier()
        path = find_weights(ModelCard("net", url, "net.pth", digits))
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except (WeightsMismatch, MissingWeights) as error:
        return type(error).__name__
    finally:
        for key, value in kept.items():
            os.environ.pop(key) if value is None else os.environ.__setitem__(key, value)


def left(home: Path) -> list[str]:
    return sorted(p.name for p in home.rglob("*") if p.is_file() and p.suffix != ".lock")


def test_one_download_for_all_ranks(worlds: Worlds, server: tuple[str, list[str]], tmp_path: Path) -> None:
    url, served = server
    home = tmp_path / "home"
    assert worlds(3, run_find, url, str(home), DIGEST[:8], "0") == [DIGEST] * 3
    assert served == ["/net.pth"]
    assert left(home) == ["net.pth"]


def test_a_wrong_checksum_leaves_no_file(worlds: Worlds, server: tuple[str, list[str]], tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert worlds(2, run_find, server[0], str(home), "00000000", "0") == ["WeightsMismatch"] * 2
    assert left(home) == []


def test_offline_asks_nobody(worlds: Worlds, server: tuple[str, list[str]], tmp_path: Path) -> None:
    assert worlds(2, run_find, server[0], str(tmp_path / "home"), DIGEST[:8], "1") == ["MissingWeights"] * 2
    assert server[1] == []
