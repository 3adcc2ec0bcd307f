"""The networks that can be downloaded ahead of time, and the values of an argument `network`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lightning_imgmetrics.models.base.extractor import Extractor
    from lightning_imgmetrics.models.base.network import Network


def _network(path: str, **fields: Any) -> Callable[..., Network]:
    """A constructor of the class at `path`, imported when called: reading the table loads no framework."""

    def make(**options: Any) -> Network:
        module, name = path.rsplit(".", 1)
        return getattr(importlib.import_module(f"lightning_imgmetrics.models.{module}"), name)(**{**fields, **options})

    return make


_CLIP, _DINOV2 = "encoders.clip.ClipExtractor", "encoders.dinov2.Dinov2Extractor"
_LPIPS = "encoders.lpips.LpipsExtractor"
_HPSV2, _AESTHETIC = "scorers.clip_preference.hpsv2", "scorers.aesthetic.AestheticHead"
MODELS: dict[str, Callable[..., Network]] = {
    "inception": _network("encoders.inception.InceptionExtractor"),
    "lpips-alex": _network(_LPIPS, net="alex"),
    "lpips-vgg": _network(_LPIPS, net="vgg"),
    "lpips-squeeze": _network(_LPIPS, net="squeeze"),
    "clip-vit-base-patch32": _network(_CLIP, model="openai/clip-vit-base-patch32"),
    "clip-vit-large-patch14": _network(_CLIP, model="openai/clip-vit-large-patch14"),
    "clip-vit-large-patch14-336": _network(_CLIP, model="openai/clip-vit-large-patch14-336"),
    "dinov2-large": _network(_DINOV2, model="facebook/dinov2-large"),
    "siglip-so400m-patch14-384": _network(_CLIP, model="google/siglip-so400m-patch14-384"),
    "bioclip-2": _network(_CLIP, model="imageomics/bioclip-2"),
    "pickscore": _network("scorers.clip_preference.pickscore"),
    "hpsv2-v2.1": _network(_HPSV2, version="v2.1"),
    "hpsv2-v2.0": _network(_HPSV2, version="v2.0"),
    "clip-iqa": _network("encoders.clip_resnet.ClipResNetExtractor"),
    "imagereward": _network("scorers.imagereward.ImageRewardExtractor"),
    "hpsv3": _network("scorers.hpsv3.HPSv3Extractor"),
    "aesthetic-v2": _network(_AESTHETIC, version="v2"),
    "aesthetic-v2.5": _network(_AESTHETIC, version="v2.5"),
    "nsfw": _network("scorers.classifier.ClassifierExtractor", model="Falconsai/nsfw_image_detection"),
    "dists-vgg": _network("encoders.dists.DistsExtractor"),
    "digits-clip": _network(_CLIP, model="digits-clip"),
}


def network_argument(network: Any, default: Any, **alias: Any) -> Any:
    """The value of an argument `network` that torchmetrics calls by another name, the `alias`; TypeError for both."""
    ((name, value),) = alias.items()
    if network is not None and value is not None:
        raise TypeError(f"`network` and `{name}` mean the same: give one of them, got {network!r} and {value!r}")
    return next((choice for choice in (network, value) if choice is not None), default)


def as_extractor(network: str | nn.Module | Callable[[Tensor], Tensor] | Extractor, **options: Any) -> Extractor:
    """The extractor that an argument `network` names.

    A name of `MODELS`; "dinov2"; a checkpoint folder or hub id, of DINOv2 (its class token) or else of CLIP or SigLIP
    (the projected embedding); a module or callable (n, 3, h, w) -> (n, d); an extractor. `options` are fields of the
    extractor, such as `resize` or `dtype`. TypeError for anything else.
    """
    if isinstance(network, str):
        extractor: Any = _by_name(network, options.get("revision"))(**options)
        if not hasattr(extractor, "default_layer"):
            raise TypeError(f"`network` must return features of images, which {network!r} does not")
        return extractor
    if hasattr(network, "default_layer"):  # an extractor
        return replace(cast("Extractor", network), **options)
    if callable(network):
        from lightning_imgmetrics.models.base.custom import CustomExtractor

        return CustomExtractor(network, **options)
    raise TypeError(f"`network` must be a name, a module, a callable or an Extractor, got {network!r}")


def _by_name(network: str, revision: str | None) -> Callable[..., Network]:
    if network in MODELS or network == "dinov2":
        return MODELS[network if network in MODELS else "dinov2-large"]
    from lightning_imgmetrics.models.base.pretrained import checkpoint_folder

    folder = checkpoint_folder(network, revision)
    config = folder / "config.json" if folder else Path("config.json")
    kind = json.loads(config.read_text()).get("model_type", "") if folder and config.is_file() else network.lower()
    return _network(_DINOV2 if "dinov2" in kind else _CLIP, model=network)
