"""The networks that can be fetched ahead of time, and how a network is named in an argument."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lightning_imgmetrics.models.base.extractor import Extractor
    from lightning_imgmetrics.models.base.network import Network


def _made(home: str, /, **fields: Any) -> Any:
    """The extractor of class `home`, imported only now: reading the names of the table loads no framework."""
    module, name = home.rsplit(".", 1)
    return getattr(importlib.import_module(f"lightning_imgmetrics.models.{module}"), name)(**fields)


MODELS: dict[str, Callable[..., Network]] = {
    "inception": partial(_made, "encoders.inception.InceptionExtractor"),
    "lpips-alex": partial(_made, "encoders.lpips.LpipsExtractor", net="alex"),
    "lpips-vgg": partial(_made, "encoders.lpips.LpipsExtractor", net="vgg"),
    "lpips-squeeze": partial(_made, "encoders.lpips.LpipsExtractor", net="squeeze"),
    "clip-vit-base-patch32": partial(_made, "encoders.clip.ClipExtractor", model="openai/clip-vit-base-patch32"),
    "clip-vit-large-patch14": partial(_made, "encoders.clip.ClipExtractor", model="openai/clip-vit-large-patch14"),
    "clip-vit-large-patch14-336": partial(
        _made, "encoders.clip.ClipExtractor", model="openai/clip-vit-large-patch14-336"
    ),
    "dinov2-large": partial(_made, "encoders.dinov2.Dinov2Extractor", model="facebook/dinov2-large"),
    "siglip-so400m-patch14-384": partial(
        _made, "encoders.clip.ClipExtractor", model="google/siglip-so400m-patch14-384"
    ),
    "bioclip-2": partial(_made, "encoders.clip.ClipExtractor", model="imageomics/bioclip-2"),
    "pickscore": partial(_made, "scorers.clip_preference.pickscore"),
    "hpsv2-v2.1": partial(_made, "scorers.clip_preference.hpsv2", version="v2.1"),
    "hpsv2-v2.0": partial(_made, "scorers.clip_preference.hpsv2", version="v2.0"),
    "clip-iqa": partial(_made, "encoders.clip_resnet.ClipResNetExtractor"),
    "imagereward": partial(_made, "scorers.imagereward.ImageRewardExtractor"),
    "hpsv3": partial(_made, "scorers.hpsv3.HPSv3Extractor"),
    "aesthetic-v2": partial(_made, "scorers.aesthetic.AestheticHead", version="v2"),
    "aesthetic-v2.5": partial(_made, "scorers.aesthetic.AestheticHead", version="v2.5"),
    "nsfw": partial(_made, "scorers.classifier.ClassifierExtractor", model="Falconsai/nsfw_image_detection"),
    "dists-vgg": partial(_made, "encoders.dists.DistsExtractor"),
    "digits-clip": partial(_made, "encoders.clip.ClipExtractor", model="digits-clip"),
}


def one_network(network: Any, default: Any, **alias: Any) -> Any:
    """What a constructor got as `network`, or under torchmetrics' name for it, the `alias`; TypeError for both."""
    ((name, value),) = alias.items()
    if network is not None and value is not None:
        raise TypeError(f"`network` and `{name}` mean the same: give one of them, got {network!r} and {value!r}")
    return next((chosen for chosen in (network, value) if chosen is not None), default)


def extractor_of(
    network: str | nn.Module | Callable[[Tensor], Tensor] | Extractor, **rules: Any
) -> tuple[Extractor, str]:
    """The extractor that an argument `network` means, and the layer it is asked for by default.

    A name of `MODELS`; "dinov2"; a checkpoint folder or hub id, of DINOv2 (its class token) or else of CLIP or SigLIP
    (the projected embedding); a module or callable (n, 3, h, w) -> (n, d); an extractor. `rules` are the fields that
    are to differ from the extractor's own, such as `resize` or `dtype`. TypeError for anything else.
    """
    from lightning_imgmetrics.models.base.custom import CustomExtractor
    from lightning_imgmetrics.models.base.extractor import Extractor

    if isinstance(network, str):
        named = _named(network, rules.get("revision"))(**rules)
        if not isinstance(named, Extractor):
            raise TypeError(f"`network` must return features of images, which {network!r} does not")
        extractor = named
    elif isinstance(network, Extractor):
        extractor = replace(network, **rules) if rules else network
    elif callable(network):
        extractor = CustomExtractor(network, **rules)
    else:
        raise TypeError(f"`network` must be a name, a module, a callable or an Extractor, got {network!r}")
    return extractor, extractor.default_layer


def _named(network: str, revision: str | None) -> Callable[..., Network]:
    if network in MODELS or network == "dinov2":
        return MODELS[network if network in MODELS else "dinov2-large"]
    from lightning_imgmetrics.models.base.pretrained import checkpoint_folder

    folder = checkpoint_folder(network, revision)
    config = folder / "config.json" if folder else Path("config.json")
    kind = json.loads(config.read_text()).get("model_type", "") if folder and config.is_file() else network.lower()
    home = "encoders.dinov2.Dinov2Extractor" if "dinov2" in kind else "encoders.clip.ClipExtractor"
    return partial(_made, home, model=network)
