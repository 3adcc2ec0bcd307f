"""Setting the parameters of a network from the tensors of a file, all of them or none."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from lightning_imgmetrics.errors import WeightsMismatch


def set_parameters(module: nn.Module, tensors: dict[str, Tensor], source: str) -> nn.Module:
    """`module`, every parameter and buffer of which `tensors` has set, in float32.

    WeightsMismatch lists the keys that are missing, left over or of another shape.
    """
    wanted = module.state_dict()
    shapes = [(key, tensors[key].shape, x.shape) for key, x in wanted.items() if key in tensors]
    require_fit(
        source,
        missing=wanted.keys() - tensors.keys(),
        unexpected=tensors.keys() - wanted.keys(),
        misshaped=[shape for shape in shapes if shape[1] != shape[2]],
    )
    floats = {key: x.float() if x.is_floating_point() else x for key, x in tensors.items()}
    module.load_state_dict(floats, strict=True, assign=True)
    return module


def require_fit(
    source: str,
    *,
    missing: Iterable[str],
    unexpected: Iterable[str],
    misshaped: Iterable[tuple[str, Sequence[int], Sequence[int]]],
) -> None:
    """WeightsMismatch, with the keys, unless all are empty; `misshaped` are (key, shape found, shape needed)."""
    shapes = [f"{key} is {tuple(found)} and must be {tuple(needed)}" for key, found, needed in misshaped]
    unfit = {"missing": sorted(missing), "unexpected": sorted(unexpected), "of another shape": sorted(shapes)}
    if any(unfit.values()):
        told = "; ".join(f"{kind}: {_some(keys)}" for kind, keys in unfit.items() if keys)
        raise WeightsMismatch(f"{source} does not fit its network: keys {told}")


def _some(keys: Sequence[str], most: int = 8) -> str:
    more = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + more
