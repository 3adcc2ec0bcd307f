"""torchmetrics' own tests pass with our classes in place of theirs; its package lacks them, so they may be absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = os.environ.get("TORCHMETRICS_TESTS")
FILES = [f"unittests/image/test_{name}.py" for name in ("fid", "kid", "inception", "mifid")]


@pytest.mark.skipif(TESTS is None, reason="TORCHMETRICS_TESTS does not point to the tests/ of a torchmetrics checkout")
def test_torchmetrics_own_tests(inception_weights: str) -> None:
    pytest.importorskip("cachier", reason="torchmetrics' tests need cachier")
    here = Path(__file__).parent
    environment = {
        **os.environ,
        "IMGMETRICS_STUBS": str(Path(inception_weights).parent),
        "PYTHONPATH": os.pathsep.join([str(here), str(TESTS)]),
    }
    options = ["-p", "torchmetrics_plugin", "-c", os.devnull, "--rootdir", str(TESTS), "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, *FILES],
        cwd=TESTS,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]
