"""Networks that are checkpoints of transformers: lookup, loading, and the checks on them."""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from string import hexdigits
from typing import Any

import torch
from torch import Tensor

from lightning_imgmetrics.errors import MissingWeights, WeightsMismatch
from lightning_imgmetrics.models.base.checkpoint import (
    EMBEDDED,
    checkpoint_folder,
    checkpoint_path,
    files_digest,
    local_checkpoint,
    missing_checkpoint,
    weights_files,
)
from lightning_imgmetrics.models.base.network import Network
from lightning_imgmetrics.models.base.parameters import require_fit
from lightning_imgmetrics.models.base.weights import ModelCard, offline, sha256

_LICENSES = {  # by prefix; empty if the publisher states none
    "digits-clip": "Apache-2.0",
    "openai/clip-": "MIT",
    "facebook/dinov2-": "Apache-2.0",
    "google/siglip": "Apache-2.0",
    "imageomics/bioclip-2": "MIT",
    "Falconsai/nsfw": "Apache-2.0",
    "sentence-transformers/all-mpnet-base-v2": "Apache-2.0",
}
# Float32, and a report of the keys in place of warnings.
LOADING_OPTIONS: dict[str, Any] = {
    "dtype": torch.float32,
    "output_loading_info": True,
    "ignore_mismatched_sizes": True,
}


@dataclass(frozen=True)
class PretrainedNetwork(Network):
    """A checkpoint folder, a name below `IMGMETRICS_WEIGHTS`, or a hub id at `revision`.

    The hub is not accessed if the environment says offline. The signature contains the digest of the weights files once
    they are on this machine, and the revision before.
    """

    model: Any
    revision: str | None = None

    @property
    def card(self) -> ModelCard:
        model = str(self.model)
        if Path(model).is_dir():
            return ModelCard(Path(model).name, model)
        source = "lightning_imgmetrics" if model in EMBEDDED else f"https://huggingface.co/{model}"
        licenses = (name for prefix, name in _LICENSES.items() if model.startswith(prefix))
        return ModelCard(model, source, license=next(licenses, ""))

    @functools.cached_property
    def key(self) -> Hashable:
        return type(self).__name__, self.model, self.revision

    @property
    def path(self) -> str:
        """Folder or hub id to load from: an existing folder, then `IMGMETRICS_WEIGHTS`, then the hub."""
        return checkpoint_path(self.model)

    def local_path(self) -> Path | None:
        folder = checkpoint_folder(self.model, self.revision)
        return folder if folder and weights_files(folder) else None

    def prefetch(self) -> Path:
        self.load()
        folder = self.local_path()
        if folder is None:
            raise MissingWeights(f"the checkpoint {self.model!r} was loaded and is not in the hub cache")
        for file in weights_files(folder):
            digest = file.resolve().name  # the hub cache stores a large file under its sha256
            if len(digest) == 64 and set(digest) <= set(hexdigits) and sha256(file) != digest:
                raise WeightsMismatch(f"{file} is damaged: sha256 must be {digest}, got {sha256(file)}")
        return folder

    def pretrained(self, loader: Any, **kwargs: Any) -> Any:
        """`loader.from_pretrained` of this checkpoint; MissingWeights, or WeightsMismatch if it cannot be read."""
        return load_pretrained(loader, self.model, self.revision, whole=True, **kwargs)

    def companion(self, loader: Any, model: str | None) -> Any:
        """The tokenizer or image processor of another checkpoint, or of this one."""
        return self.pretrained(loader) if model in (None, self.model) else load_pretrained(loader, str(model))

    def pretrained_model(self, loader: Any = None, **kwargs: Any) -> Any:
        """The float32 network, an `AutoModel` or that of another `loader`, with all parameters from the checkpoint.

        WeightsMismatch lists the keys that are missing, unexpected or of another shape.
        """
        from transformers import AutoModel

        model, loading_info = self.pretrained(loader or AutoModel, **(LOADING_OPTIONS | kwargs))
        _require_complete(loading_info, f"the checkpoint {self.model!r}")
        return model

    def config(self) -> Any:
        from transformers import AutoConfig

        return self.pretrained(AutoConfig)

    def signature_fields(self) -> dict[str, str]:
        folder = self.local_path()
        return {"weights": files_digest(weights_files(folder)) if folder else self.revision or "main"}


def load_pretrained(loader: Any, model: str, revision: str | None = None, *, whole: bool = False, **kwargs: Any) -> Any:
    """`loader.from_pretrained` of a checkpoint: its configuration, tokenizer, image processor or network.

    MissingWeights, or WeightsMismatch if it cannot be read. A `whole` checkpoint without weights is a missing one.
    """
    from safetensors import SafetensorError

    try:
        with silence_transformers():
            path = local_checkpoint(model, revision)
            return loader.from_pretrained(path, revision=revision or "main", local_files_only=offline(), **kwargs)
    except (OSError, SafetensorError, UnpicklingError, RuntimeError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        folder = checkpoint_folder(model, revision)
        here = folder is not None and (not whole or weights_files(folder))
        if here or not isinstance(error, OSError):
            raise WeightsMismatch(f"the checkpoint {model!r} cannot be read: {reason}") from error
        raise missing_checkpoint(model, revision, reason) from error


def build_pretrained(kind: Any, config: Any, tensors: Mapping[str, Tensor], source: str, **kwargs: Any) -> Any:
    """A transformers model of class `kind` with all parameters from `tensors`; WeightsMismatch if they do not fit."""
    options = LOADING_OPTIONS | kwargs
    with silence_transformers():
        model, loading_info = kind.from_pretrained(None, config=config, state_dict=dict(tensors), **options)
    _require_complete(loading_info, source)
    return model


def _require_complete(info: Mapping[str, Any], source: str) -> None:
    unexpected = [key for key in info["unexpected_keys"] if not key.endswith("position_ids")]  # stored by old versions
    require_fit(source, missing=info["missing_keys"], unexpected=unexpected, misshaped=info["mismatched_keys"])


@contextmanager
def silence_transformers() -> Iterator[None]:
    """No progress bar, which would disrupt the trainer's own, and no report of keys, which our errors contain."""
    from transformers.utils import logging

    progress_bar, verbosity = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if progress_bar:
            logging.enable_progress_bar()
