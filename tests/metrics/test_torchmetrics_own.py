"""torchmetrics' own tests pass with our classes in place of theirs; its package lacks them, so they may be absent."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = os.environ.get("TORCHMETRICS_TESTS")
# Files of tests, and the packages that they compare with.
GROUPS = {
    "distribution": (("fid", "kid", "inception", "mifid"), ("cachier",)),
    "paired": (("psnr", "ssim", "ms_ssim", "vif"), ("cachier", "skimage", "pytorch_msssim", "sewar")),
    "perceptual": (("lpips", "dists"), ("cachier", "lpips")),
}
PUBLISHED = {  # the names under which torchvision's files are published
    "alexnet.pth": "alexnet-owt-7be5be79.pth",
    "vgg16.pth": "vgg16-397923af.pth",
    "squeezenet1_1.pth": "squeezenet1_1-b8a52dc0.pth",
}


@pytest.mark.skipif(TESTS is None, reason="TORCHMETRICS_TESTS does not point to the tests/ of a torchmetrics checkout")
@pytest.mark.parametrize("group", GROUPS)
def test_torchmetrics_own_tests(
    group: str, inception_weights: str, lpips_weights: dict[str, str], tmp_path: Path
) -> None:
    names, modules = GROUPS[group]
    for module in modules:
        pytest.importorskip(module, reason=f"torchmetrics' tests need {module}")
    here, stubs = Path(__file__).parent, tmp_path / "stubs"
    stubs.mkdir()
    for path in (inception_weights, *lpips_weights.values()):
        (stubs / PUBLISHED.get(Path(path).name, Path(path).name)).symlink_to(path)
    environment = {
        **os.environ,
        "IMGMETRICS_STUBS": str(stubs),
        "PYTEST_REFERENCE_CACHE": str(tmp_path / "references"),
        "PYTHONPATH": os.pathsep.join([str(here), str(TESTS)]),
    }
    options = ["-p", "torchmetrics_plugin", "-c", os.devnull, "--rootdir", str(TESTS), "-p", "no:cacheprovider"]
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *options, *(f"unittests/image/test_{name}.py" for name in names)],
        cwd=TESTS,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-3000:]
