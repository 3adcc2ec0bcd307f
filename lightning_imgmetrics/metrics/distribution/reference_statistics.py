"""The reference side of distribution metrics as a file: measured once, shared, or published by others."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lightning_imgmetrics._compat.torchmetrics import forget_value, syncs_on_compute
from lightning_imgmetrics._distributed import world
from lightning_imgmetrics._files import write_atomically
from lightning_imgmetrics.data.statistics_files import PublicStatistics, read_statistics
from lightning_imgmetrics.errors import IncompatibleStates, NotEnoughSamples, SignatureMismatch
from lightning_imgmetrics.metrics.base.metric import ImageMetric
from lightning_imgmetrics.metrics.base.streams import Content, Stream
from lightning_imgmetrics.metrics.distribution.inception_protocols import inception, unit_rows
from lightning_imgmetrics.metrics.distribution.mmd import CLIPMaximumMeanDiscrepancy
from lightning_imgmetrics.models.base.extractor import Extractor
from lightning_imgmetrics.models.encoders.clip import ClipExtractor
from lightning_imgmetrics.models.encoders.dinov2 import Dinov2Extractor
from lightning_imgmetrics.result import Signature
from lightning_imgmetrics.states.bank import Bank
from lightning_imgmetrics.states.moments import UNKNOWN, Moments

_FORMAT = "lightning-imgmetrics reference statistics 1"
_OWN_PROTOCOL = {"adm": "adm", "edm2": "adm"}  # formats that one tool alone writes


@dataclass(frozen=True)
class Entry:
    """The state of one reference stream and the network it was measured with; covariances have ddof 1.

    `signature` holds what is known of the network; of published files that may be less than a metric says of itself.
    """

    signature: Signature
    state: Bank | Moments
    value: Tensor

    @property
    def count(self) -> int:
        """The number of images."""
        return self.state.count(self.value)

    def converted(self, state: Bank | Moments) -> Tensor | None:
        """The value for another state, made of features; None where there are none, too few, or too coarse ones."""
        return state.of_bank(self.state, self.value) if self.state.kind == Bank.kind else None  # type: ignore[arg-type]


@dataclass(frozen=True)
class ReferenceStatistics:
    """What distribution metrics keep of a reference, as a file: moments and features by network, protocol and layer.

    Measured once with `of` (or `MetricSuite.reference`) and saved, or read from a published file with `load`;
    `MetricSuite.update_reference` takes it in place of the reference images, and gives the value that they give.

    Args:
        entries: the states, each with the network that it was measured with.
        n: the number of images; None if the file does not say.
        content: what identifies their pixels, where it is known.

    Raises:
        SignatureMismatch: at `fill`, where a metric measures in another way; at `load`, where a protocol is missing.
        IncompatibleStates: at `load`, for a damaged file or one that holds no statistics.
        NotEnoughSamples: at `of`, for metrics without a reference.

    Example:
        >>> import torch
        >>> from lightning_imgmetrics import FrechetDistance, MetricSuite, ReferenceStatistics
        >>> images = torch.randint(256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        >>> metric = FrechetDistance("digits-clip")
        >>> metric.update(images[:4], real=True)
        >>> ReferenceStatistics.of([metric]).save("reference.safetensors")
        >>> suite = MetricSuite({"fd": FrechetDistance("digits-clip")})
        >>> suite.update_reference(ReferenceStatistics.load("reference.safetensors"))
        >>> suite.update(images[4:])
        >>> round(float(suite.compute()["fd"]), 3)
        6.519
    """

    entries: tuple[Entry, ...]
    n: int | None
    content: str = ""

    @classmethod
    def of(cls, metrics: Iterable[ImageMetric], *, content: str = "") -> ReferenceStatistics:
        """The reference side of `metrics`; NotEnoughSamples if they have none."""
        entries: dict[tuple[str, str], Entry] = {}
        for m, name in _reference_streams(metrics):
            stream = m.streams[name]
            signature = network_signature(m.extractor, stream)
            if (str(signature), repr(stream.state)) not in entries:
                value = stream.read().cpu().contiguous()
                value = value if stream.state.table else value.clone()  # sums change in place
                entries[str(signature), repr(stream.state)] = Entry(signature, stream.state, value)  # type: ignore[arg-type]
        counts = {entry.count for entry in entries.values()}
        if not counts or max(counts) == 0:
            raise NotEnoughSamples("the reference", 0, 2, "update the metrics with reference images first")
        sizes = [e.count for e in entries.values() if getattr(e.state, "size", None) is None and e.count < UNKNOWN]
        return cls(tuple(entries.values()), max(sizes, default=None), content)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write one safetensors file, atomically."""
        tensors = {f"{i}": entry.value for i, entry in enumerate(self.entries)}
        described = [
            {
                "signature": str(entry.signature),
                "kind": entry.state.kind,
                "d": entry.state.d,
                "size": getattr(entry.state, "size", None),
                "n": entry.count,
                "ddof": 1,
            }
            for entry in self.entries
        ]
        about = {"format": _FORMAT, "n": self.n, "content": self.content, "entries": described}
        metadata = {"about": json.dumps(about)}
        write_atomically(Path(path), lambda part: save_file(tensors, part, metadata=metadata))

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], *, protocol: str | None = None, n: int | None = None
    ) -> ReferenceStatistics:
        """Read our own file or a published one (pytorch-fid, clean-fid, ADM, EDM, EDM2, CMMD; see README).

        `protocol` says which tool made a file that does not say so itself; `n`, of how many images, if it is known.
        Raises SignatureMismatch (a protocol is missing), IncompatibleStates (no or a damaged statistics file, shapes
        that disagree, an unknown network) and NonFiniteFeatures.
        """
        if _is_safetensors(Path(path)):
            return cls._own(Path(path))
        public = read_statistics(Path(path))
        if not public.moments and public.features is None:
            raise IncompatibleStates(f"{path} holds images and no statistics of them: give it as the reference images")
        n = public.n if n is None else n
        return cls(tuple(_imported(public, protocol, n, Path(path))), n)

    @classmethod
    def _own(cls, path: Path) -> ReferenceStatistics:
        try:
            with safe_open(path, "pt") as file:
                about = json.loads((file.metadata() or {}).get("about", "{}"))
                if about.get("format") != _FORMAT:
                    raise IncompatibleStates(f"{path} holds no reference statistics: make them with `imgmetrics stats`")
                values = [file.get_tensor(f"{i}") for i in range(len(about["entries"]))]
        except (SafetensorError, json.JSONDecodeError) as error:
            raise IncompatibleStates(f"{path} is not a whole statistics file: {error}") from error
        entries = []
        for described, value in zip(about["entries"], values, strict=True):
            features = described["kind"] == Bank.kind
            state = Bank(described["d"], described["size"], value.dtype) if features else Moments(described["d"])
            if value.shape[-1] != state.empty().shape[-1]:
                raise IncompatibleStates(f"{path}: an entry with d = {state.d} has shape {tuple(value.shape)}")
            entries.append(Entry(Signature.parse(described["signature"]), state, value))
        return cls(tuple(entries), about["n"], about["content"])

    def fill(self, metrics: Iterable[ImageMetric]) -> None:
        """Replace the reference side of `metrics`; SignatureMismatch says what differs, and nothing is changed.

        Where metrics sync over ranks, rank 0 takes it and the others start empty: it counts once.
        """
        metrics = list(metrics)
        owned = {id(m.streams[name]): (m, name) for m, name in _reference_streams(metrics)}
        values = [(m, m.streams[name], self._serve(m, name)) for m, name in owned.values()]
        for m, stream, value in values:
            if syncs_on_compute(m) and world(m.process_group)[0] > 0:
                value = stream.state.empty()
            # Sums change in place, so each metric gets its own.
            stream.content = Content([value] if stream.state.table else value.clone().to(stream.home))
        for m in metrics:
            forget_value(m)

    def _serve(self, m: ImageMetric, name: str) -> Tensor:
        """The state for one stream: as it is, or made of what holds more."""
        stream = m.streams[name]
        wanted = network_signature(m.extractor, stream)
        alike = [entry for entry in self.entries if _fits(entry.signature, wanted)]
        for entry in alike:
            if entry.state == stream.state:
                return entry.value
        for entry in alike:
            if (value := entry.converted(stream.state)) is not None:  # type: ignore[arg-type]
                return value
        held = "; ".join(f"{entry.state} of {entry.signature}" for entry in self.entries)
        raise SignatureMismatch(
            f"metric {m.name!r} needs {stream.state} of {wanted}, the reference statistics hold {held}"
        )


def network_signature(extractor: Extractor | None, stream: Stream) -> Signature:
    """What identifies the features that a stream keeps."""
    network = {} if extractor is None else extractor.signature()
    transform = {} if stream.transform is None else {"transform": stream.transform.__name__}
    return Signature.of(**network, layer=stream.layer, **transform)


def _reference_streams(metrics: Iterable[ImageMetric]) -> Iterator[tuple[ImageMetric, str]]:
    for m in metrics:
        yield from ((m, name) for name in m.streams.of_side("real"))


def _is_safetensors(path: Path) -> bool:
    """By its name, or by its content: the length of a JSON header, then the header."""
    if path.suffix == ".safetensors":
        return True
    with open(path, "rb") as file:
        return file.read(9)[8:] == b"{"


def _fits(measured: Signature, wanted: Signature) -> bool:
    """Whether features described by `measured` are those that are wanted; a published file may not name the weights."""
    keys = {*measured.fields, *wanted.fields} - ({"weights"} - {*measured.fields})
    return all(measured.fields.get(key) == wanted.fields.get(key) for key in keys)


def _imported(public: PublicStatistics, protocol: str | None, n: int | None, path: Path) -> list[Entry]:
    """The entries of a published file."""
    if public.format == "dgm-eval":
        raise IncompatibleStates(
            f"{path} holds dgm-eval's features of a network that it does not name: measure the images again"
        )
    protocol = protocol or _OWN_PROTOCOL.get(public.format)
    if protocol is None and public.format != "npy":
        raise SignatureMismatch(
            f"{path} does not say which tool made it, and the resize rule changes FID: pass"
            " protocol='pytorch-fid', 'clean-fid', 'torch-fidelity', 'torchmetrics' or 'adm'"
        )
    count = UNKNOWN if n is None else float(n)
    entries = []
    for name, (mean, cov) in public.moments.items():
        network, layer = _public_network(name, protocol, path)
        moments = Moments(len(mean))
        signature = Signature.of(**network, layer=layer)
        entries.append(Entry(signature, moments, moments.pack(count, mean, cov)))
    if public.features is not None:
        transform: dict[str, str] = {}
        if public.format == "npy":
            cmmd = ClipExtractor(CLIPMaximumMeanDiscrepancy.default_network, resize="crop-bicubic")
            network, layer = {"network": cmmd.card.name, "resize": "crop-bicubic"}, "embed"
            transform = {"transform": unit_rows.__name__}
        else:
            network, layer = _public_network("fid", protocol, path)
        features = public.features if not transform else unit_rows(public.features)
        bank = Bank(features.shape[1])
        ids = -1 - torch.arange(len(features))  # whose images these are is not known
        signature = Signature.of(**network, layer=layer, **transform)
        entries.append(Entry(signature, bank, bank.of(bank.rows(features, ids))))
    return entries


def _public_network(name: str, protocol: str | None, path: Path) -> tuple[Mapping[str, str], str]:
    """(signature fields, layer) of what a published file calls `name`; IncompatibleStates for an unknown name."""
    if name not in ("fid", "sfid", "fd_dinov2"):
        raise IncompatibleStates(f"{path}: expected statistics named fid, sfid or fd_dinov2, got {name!r}")
    if name == "fd_dinov2":
        dinov2 = Dinov2Extractor(resize="bicubic-antialias-unclamped").signature()
        return {key: value for key, value in dinov2.items() if key != "weights"}, "embed"
    assert protocol is not None
    return inception(protocol).signature(), "sfid" if name == "sfid" else "2048"
