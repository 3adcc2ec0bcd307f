"""The files of a checkpoint, on this machine or the hub, and its identifier for signatures."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lightning_imgmetrics.errors import MissingWeights
from lightning_imgmetrics.models.base import open_clip
from lightning_imgmetrics.models.base.weights import offline, sha256, shards

EMBEDDED = {"digits-clip": Path(__file__).parents[1] / "digits_clip"}
# The small files that change numbers. A vocabulary is read from the first of these that exists.
_VOCABULARY = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("vocab.txt",), ("spiece.model",))
_TOKENS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja")
_IMAGES = ("preprocessor_config.json", "processor_config.json")
_CONFIG = ("config.json", open_clip.CONFIG)


def checkpoint_path(model: str) -> str:
    """The path that transformers loads `model` from: a folder on this machine, or `model` itself as a hub id."""
    if model in EMBEDDED:
        return str(EMBEDDED[model])
    variable = os.environ.get("IMGMETRICS_WEIGHTS")
    if not Path(model).is_dir() and variable and (Path(variable).expanduser() / model).is_dir():
        return str(Path(variable).expanduser() / model)
    return model


def checkpoint_folder(model: str, revision: str | None = None) -> Path | None:
    """The folder of the checkpoint on this machine, or of its config in the hub cache; None if it is absent."""
    path = checkpoint_path(model)
    if Path(path).is_dir():
        return Path(path)
    configs = (local_file(model, name, revision) for name in _CONFIG)
    return next((config.parent for config in configs if config is not None), None)


def local_checkpoint(model: str, revision: str | None = None) -> str:
    """`checkpoint_path`; offline, the folder in the hub cache.

    Given an id, transformers looks for optional files, and mistakes their absence from the cache for that of the
    checkpoint.
    """
    folder = checkpoint_folder(model, revision) if offline() else None
    return checkpoint_path(model) if folder is None else str(folder)


def local_file(model: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a checkpoint on this machine, the hub cache included; None if it is absent."""
    path = checkpoint_path(model)
    if Path(path).is_dir():
        return Path(path) / name if (Path(path) / name).is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(path, name, revision=revision)
    except HFValidationError:  # not a hub id
        return None
    return Path(cached) if isinstance(cached, str) else None


def checkpoint_file(model: str, name: str, revision: str | None = None) -> Path | None:
    """A file of a checkpoint, from a folder or the hub; None if the checkpoint, or its cached copy, does not have it.

    MissingWeights if nothing of the checkpoint is on this machine and the hub cannot be reached.
    """
    path = checkpoint_path(model)
    if Path(path).is_dir():
        return local_file(model, name)
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(hf_hub_download(path, name, revision=revision, local_files_only=offline()))
    except LocalEntryNotFoundError as error:
        if checkpoint_folder(model, revision) is not None:
            return None
        raise missing_checkpoint(model, revision, f"{name}: {next(iter(str(error).splitlines()))}") from error
    except EntryNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise missing_checkpoint(model, revision, str(error)) from error


def missing_checkpoint(model: str, revision: str | None, reason: str) -> MissingWeights:
    """The error for a checkpoint that is not available, with its address."""
    return MissingWeights(
        f"the checkpoint {model!r} is neither a folder nor in the hub cache, and cannot be downloaded"
        f" ({reason}). Fetch https://huggingface.co/{model} (revision {revision or 'main'}) and put"
        f" its files into $IMGMETRICS_WEIGHTS/{model}, or pass a folder"
    )


def weights_files(folder: Path) -> list[Path]:
    """The weights files of a folder, in transformers' order of preference or, in its layout, open_clip's.

    Empty if there are none, or a shard is absent.
    """
    if open_clip.is_folder(folder):
        return [folder / name for name in open_clip.WEIGHTS if (folder / name).is_file()][:1]
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return [folder / name]
        if (folder / f"{name}.index.json").is_file():
            files = shards(folder / f"{name}.index.json")
            return files if all(file.is_file() for file in files) else []
    return []


def files_digest(files: Iterable[Path]) -> str:
    """First digits of the sha256 of each file."""
    return "+".join(sha256(file)[:8] for file in files)


def checkpoint_id(
    model: str,
    *,
    images: bool = False,
    config: bool = False,
    revision: str | None = None,
    others: Sequence[str] = (),
) -> str:
    """The name of a checkpoint and, once they are on this machine, a digest of its tokenizer's files.

    `images`: also of its image processor; `config`: also of its configuration; `others`: also of these files.
    """
    names = [*_TOKENS, *(_IMAGES if images else ()), *(_CONFIG if config else ()), *others]
    further = {name: local_file(model, name, revision) for name in names}
    files = [*vocabulary_files(model, revision), *(file for file in further.values() if file is not None)]
    name = Path(model).name if Path(model).is_dir() else model
    listing = "".join(f"{file.name}:{sha256(file)};" for file in files)
    return f"{name}@{hashlib.sha256(listing.encode()).hexdigest()[:8]}" if listing else name


def vocabulary_files(model: str, revision: str | None = None) -> list[Path]:
    """The files of a checkpoint's vocabulary on this machine; empty if it is absent."""
    for names in _VOCABULARY:
        if files := [file for name in names if (file := local_file(model, name, revision)) is not None]:
            return files
    return []
