"""End-to-end FID of two folders of images, by this package and by others, with the same random network."""

from __future__ import annotations

import io
import pkgutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset


@dataclass(frozen=True)
class Job:
    """FID of the PNG files of `generated` against those of `real`."""

    real: str
    generated: str
    weights: str
    batch_size: int
    workers: int


@dataclass(frozen=True)
class Tool:
    """`fid` computes the value of a job; `distance` is the dotted name of the function behind its last step."""

    module: str
    protocol: str
    fid: Callable[[Job], float]
    distance: str
    remark: str = ""


@dataclass(frozen=True)
class Run:
    value: float
    seconds: float
    distance: float  # seconds of the last step, which does not depend on the number of images


def run(fid: Callable[[Job], float], distance: str, job: Job) -> Run:
    """One evaluation, from nothing loaded to the value."""
    with timed_calls(distance) as durations, redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        start = time.perf_counter()
        value = fid(job)
        return Run(float(value), time.perf_counter() - start, sum(durations))


@contextmanager
def timed_calls(name: str) -> Iterator[list[float]]:
    """The seconds of each call of the function of that dotted name."""
    function, durations = pkgutil.resolve_name(name), []

    def measured(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            durations.append(time.perf_counter() - start)

    with mock.patch(name, measured):
        yield durations


OURS = "lightning_imgmetrics.metrics.distribution.frechet.FrechetDistance.distance"


def ours(job: Job, protocol: str) -> float:
    """As `imgmetrics evaluate` does: the loader's ids, one suite, the reference first."""
    from lightning_imgmetrics import FrechetInceptionDistance, MetricSuite
    from lightning_imgmetrics.data.images import ImageBatches
    from lightning_imgmetrics.models.base import network

    network.NETWORKS.clear()  # the others load theirs every time
    suite = MetricSuite(
        {"fid": FrechetInceptionDistance(feature_extractor_weights_path=job.weights, protocol=protocol)}
    )
    for folder, real in ((job.real, True), (job.generated, False)):
        for ids, images in ImageBatches(folder, job.batch_size, num_workers=job.workers):
            suite.update(images, real=real, ids=ids)
    return suite.results()["fid"].value


class Folder(Dataset):
    """The PNG files of a folder as uint8 (3, h, w)."""

    def __init__(self, path: str):
        self.files = sorted(Path(path).glob("*.png"))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        from torchvision.transforms.functional import pil_to_tensor

        with Image.open(self.files[index]) as image:
            return pil_to_tensor(image.convert("RGB"))


def torchmetrics(job: Job) -> float:
    from torchmetrics.image.fid import FrechetInceptionDistance

    metric = FrechetInceptionDistance(feature_extractor_weights_path=job.weights)
    for folder, real in ((job.real, True), (job.generated, False)):
        for images in DataLoader(Folder(folder), job.batch_size, num_workers=job.workers):
            metric.update(images, real=real)
    return float(metric.compute())


def torch_fidelity(job: Job) -> float:
    from torch_fidelity import calculate_metrics

    values = calculate_metrics(
        input1=job.generated,
        input2=job.real,
        fid=True,
        cuda=False,
        batch_size=job.batch_size,
        feature_extractor_weights_path=job.weights,
        cache=False,
        verbose=False,
    )
    return values["frechet_inception_distance"]


def pytorch_fid(job: Job) -> float:
    from pytorch_fid import fid_score

    weights = torch.load(job.weights, weights_only=True)
    with mock.patch("pytorch_fid.inception.load_state_dict_from_url", return_value=weights):
        paths = [job.real, job.generated]
        return fid_score.calculate_fid_given_paths(paths, job.batch_size, torch.device("cpu"), 2048, job.workers)


def clean_fid(job: Job) -> float:
    from cleanfid import fid, inception_pytorch

    weights = torch.load(job.weights, weights_only=True)
    with mock.patch.object(inception_pytorch, "load_state_dict_from_url", return_value=weights):
        network = inception_pytorch.InceptionV3([3], resize_input=False, normalize_input=False).eval()
    return fid.compute_fid(
        job.real,
        job.generated,
        mode="clean",
        num_workers=job.workers,
        batch_size=job.batch_size,
        device=torch.device("cpu"),
        custom_feat_extractor=lambda x: network((x - 128) / 128)[0].flatten(1),
        verbose=False,
    )


TOOLS = {
    "torchmetrics": Tool("torchmetrics", "torchmetrics", torchmetrics, "torchmetrics.image.fid._compute_fid"),
    "torch-fidelity": Tool(
        "torch_fidelity", "torch-fidelity", torch_fidelity, "torch_fidelity.metric_fid.fid_statistics_to_metric"
    ),
    "pytorch-fid": Tool("pytorch_fid", "pytorch-fid", pytorch_fid, "pytorch_fid.fid_score.calculate_frechet_distance"),
    "clean-fid": Tool(
        "cleanfid",
        "clean-fid",
        clean_fid,
        "cleanfid.fid.frechet_distance",
        " (mode clean; the random network in place of its TorchScript file)",
    ),
}
