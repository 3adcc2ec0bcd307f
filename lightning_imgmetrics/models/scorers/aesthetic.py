"""The heads of the LAION aesthetic predictors: a normalized image embedding -> a rating."""

from __future__ import annotations

import functools
import re
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

import torch
from torch import Tensor, nn

from lightning_imgmetrics.errors import UnknownName, WeightsMismatch
from lightning_imgmetrics.models.base.network import Network
from lightning_imgmetrics.models.base.parameters import set_parameters
from lightning_imgmetrics.models.base.weights import ModelCard, find_weights, load_tensors, sha256


def _card(version: str, repo: str, path: str, digits: str, license: str) -> ModelCard:
    url = f"https://github.com/{repo}/raw/main/{quote(path)}"
    return ModelCard(f"aesthetic-{version}", url, path.rpartition("/")[2], digits, license)


_V1 = "LAION-AI/aesthetic-predictor"
_V2 = "christophschuhmann/improved-aesthetic-predictor"
_V25 = "discus0434/aesthetic-predictor-v2-5"
_CLIP_L = "openai/clip-vit-large-patch14"
# The published heads, each with the network whose embeddings it takes.
HEADS: dict[str, tuple[ModelCard, str]] = {
    "v1": (_card("v1", _V1, "sa_0_4_vit_l_14_linear.pth", "2cd4e60f4f24ae3b", "MIT"), _CLIP_L),
    "v1-b32": (
        _card("v1-b32", _V1, "sa_0_4_vit_b_32_linear.pth", "c7b14cead230694a", "MIT"),
        "openai/clip-vit-base-patch32",
    ),
    "v2": (_card("v2", _V2, "sac+logos+ava1-l14-linearMSE.pth", "21dd590f3ccdc646", "Apache-2.0"), _CLIP_L),
    "v2-ava-logos": (
        _card("v2-ava-logos", _V2, "ava+logos-l14-linearMSE.pth", "390a3aafaf3b37d5", "Apache-2.0"),
        _CLIP_L,
    ),
    "v2-relu": (_card("v2-relu", _V2, "ava+logos-l14-reluMSE.pth", "0af3254c651d55b7", "Apache-2.0"), _CLIP_L),
    "v2.5": (
        _card("v2.5", _V25, "models/aesthetic_predictor_v2_5.pth", "a6caf256b3dc4342", "AGPL-3.0"),
        "google/siglip-so400m-patch14-384",
    ),
}
# The indices of the linear layers among dropout and ReLU, and whether there is ReLU: v1, v2 linear, v2 ReLU, v2.5.
_LAYOUTS = {(0,): False, (0, 2, 4, 6, 7): False, (0, 3, 6, 9, 11): True, (0, 2, 4, 6, 8): False}
_WIDTHS = (1024, 128, 64, 16, 1)
_TOWER = ("vision_model.", "visual_projection.")
_WRAPPERS = re.compile(r"((aesthetic_)?model\.|module\.|(aesthetics_)?predictor\.)*")
_STACK = re.compile(r"(layers\.)?(scoring_head\.)?(?=\d)")


@dataclass(frozen=True)
class AestheticHead(Network):
    """The head of a `version` of `HEADS`; `weights` is a file in place of the published one.

    Such a file may have any of the published layouts, and may contain the image tower, which is ignored. `prefetch` and
    `local_path` concern the head alone, not the network whose embeddings it takes. Sources: LAION 2022 (v1), Schuhmann
    2022 (v2), discus0434 2024 (v2.5).
    """

    version: str = "v2"
    weights: str | None = None

    def __post_init__(self) -> None:
        if self.version not in HEADS:
            raise UnknownName("version", self.version, HEADS)

    @property
    def card(self) -> ModelCard:
        return HEADS[self.version][0]

    @functools.cached_property
    def key(self) -> Hashable:
        return "aesthetic", self.version, self.weights

    def load(self) -> nn.Module:
        path = find_weights(self.card, self.weights)
        return _head(load_tensors(self.card, path), str(path))

    def rate(self, embeddings: Tensor) -> Tensor:
        """Image embeddings (n, d), normalized unless they are 0 -> ratings (n,) float32, nominally from 1 to 10."""
        network = self.network(embeddings.device)
        if embeddings.shape[1] != network[0].in_features:
            raise WeightsMismatch(
                f"{self.card.name} rates embeddings of {network[0].in_features} numbers, got {embeddings.shape[1]}:"
                " `model` must be the network that the head was trained on"
            )
        norm = embeddings.norm(dim=1, keepdim=True)
        return network(embeddings / norm.masked_fill(norm == 0, 1))[:, 0]

    def signature_fields(self) -> dict[str, str]:
        if self.weights is None:
            return {"head": self.card.sha256[:8]}
        return {"head": sha256(find_weights(self.card, self.weights))[:8]}


def _head(state: Mapping[str, Tensor], source: str) -> nn.Module:
    """The layers that the keys name; WeightsMismatch unless they have a published layout."""
    tensors = _layer_keys(state, source)
    indices = tuple(sorted(int(key[: -len(".weight")]) for key in tensors if re.fullmatch(r"\d+\.weight", key)))
    if indices not in _LAYOUTS or tensors["0.weight"].ndim != 2:
        keys = ", ".join(f"{key} {tuple(x.shape)}" for key, x in list(tensors.items())[:8])
        raise WeightsMismatch(
            f"{source} must hold `weight` and `bias` (v1), or linear layers {', '.join(map(str, list(_LAYOUTS)[1:]))}"
            f" of an aesthetic predictor, got {keys or 'none'}"
        )
    widths = (tensors["0.weight"].shape[1], *_WIDTHS[-len(indices) :])
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    with torch.device("meta"):
        for index, d, width in zip(indices, widths, widths[1:]):
            layers[str(index)] = nn.Linear(d, width)
            if _LAYOUTS[indices] and width > 1:
                layers[str(index + 1)] = nn.ReLU()
    return set_parameters(nn.Sequential(layers), tensors, source)


def _layer_keys(tensors: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    """The tensors of the head, named "<index>.weight" and "<index>.bias", and any others that are not the tower's."""
    layers: dict[str, Tensor] = {}
    for key, x in tensors.items():
        name = _WRAPPERS.sub("", key, count=1)
        if name.startswith(_TOWER):
            continue
        name = f"0.{name}" if name in ("weight", "bias") else _STACK.sub("", name, count=1)
        if name in layers:
            raise WeightsMismatch(f"{source} holds {name} of an aesthetic predictor twice")
        layers[name] = x
    return layers
