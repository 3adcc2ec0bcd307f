"""Setting all parameters of a network from the tensors of a file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from lightning_imgmetrics.errors import WeightsMismatch


def set_parameters(module: nn.Module, tensors: dict[str, Tensor], source: str) -> nn.Module:
    """`module` with every parameter and buffer set from `tensors`, in float32.

    WeightsMismatch lists the keys that are missing, unexpected or of another shape.
    """
    expected = module.state_dict()
    shapes = [(key, tensors[key].shape, x.shape) for key, x in expected.items() if key in tensors]
    require_fit(
        source,
        missing=expected.keys() - tensors.keys(),
        unexpected=tensors.keys() - expected.keys(),
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
    """WeightsMismatch, with the keys, unless all are empty; `misshaped` are (key, shape, expected shape)."""
    shapes = [f"{key} is {tuple(shape)} and must be {tuple(expected)}" for key, shape, expected in misshaped]
    problems = {"missing": sorted(missing), "unexpected": sorted(unexpected), "of another shape": sorted(shapes)}
    if any(problems.values()):
        listing = "; ".join(f"{problem}: {_first(keys)}" for problem, keys in problems.items() if keys)
        raise WeightsMismatch(f"{source} does not fit its network: keys {listing}")


def _first(keys: Sequence[str], n: int = 8) -> str:
    more = f" and {len(keys) - n} more" if len(keys) > n else ""
    return ", ".join(keys[:n]) + more
