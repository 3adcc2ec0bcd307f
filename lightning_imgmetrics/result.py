"""A citable number: value, count, interval, unit, direction, and how it was measured."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field

from lightning_imgmetrics.errors import SignatureMismatch

# Fields of a signature that may differ between comparable numbers.
_INCIDENTAL = ("version", "seed", "model_weights", "calibrated")


@dataclass(frozen=True)
class Signature:
    """Everything that changes a number, as ordered `key:value` fields (after sacreBLEU, Post 2018).

    Args:
        fields: The settings by name, in the order in which they are printed.

    Example:
        >>> signature = Signature.of(metric="fid", network="inception-v3-2015", resize="tf1-bilinear-299")
        >>> str(signature)
        'metric:fid|network:inception-v3-2015|resize:tf1-bilinear-299'
        >>> Signature.parse(str(signature)) == signature
        True
    """

    fields: Mapping[str, str]

    @classmethod
    def of(cls, **fields: object) -> Signature:
        """The signature of these settings, each as text."""
        return cls({key: str(value) for key, value in fields.items()})

    @classmethod
    def parse(cls, text: str) -> Signature:
        """The signature whose text this is."""
        parts = (part.split(":", 1) for part in text.split("|") if part)
        return cls({key: value.replace("%7C", "|").replace("%25", "%") for key, value in parts})

    def __str__(self) -> str:
        escaped = {key: value.replace("%", "%25").replace("|", "%7C") for key, value in self.fields.items()}
        return "|".join(f"{key}:{value}" for key, value in escaped.items())

    def require_like(self, other: Signature, *, ignore: tuple[str, ...] = ()) -> None:
        """Check that two numbers are comparable.

        Args:
            other: The signature of the other number.
            ignore: Fields that may differ, in addition to version, seed and calibration.

        Raises:
            SignatureMismatch: Other fields differ; the message names each.
        """
        keys = [k for k in {**self.fields, **other.fields} if k not in _INCIDENTAL and k not in ignore]
        differences = [k for k in keys if self.fields.get(k) != other.fields.get(k)]
        if differences:
            sides = "; ".join(f"{k}: {self.fields.get(k)} against {other.fields.get(k)}" for k in differences)
            raise SignatureMismatch(f"the two were not measured in the same way ({sides})")


@dataclass(frozen=True)
class Result:
    """The value of one metric over `n` samples.

    Args:
        name: The key of the metric, such as "fid".
        value: The value.
        n: Number of samples.
        unit: Unit of the value, such as "dB"; empty for a dimensionless one.
        higher_is_better: Direction of the metric; None if it has none.
        interval: The 95 % confidence interval of `value`; None if there is none.
        signature: The text of the `Signature`: everything that changes the value.
        details: Further numbers, such as `standard_error`, `n_clamped` (pixels outside the declared range) or
            `truncated_fraction`.
        replicates: The values without each of several random parts of the samples (delete-group jackknife), for paired
            comparisons; empty unless they were requested.

    Example:
        >>> a = Result("psnr", 31.5, 100, "dB", True, (31.1, 31.9), "metric:psnr")
        >>> print(a)
        psnr = 31.5 [31.1, 31.9] dB (n = 100) metric:psnr
        >>> Result.from_json(a.to_json()) == a
        True
        >>> a.difference(Result("psnr", 30.0, 100, "dB", True, signature="metric:psnr"))
        1.5
    """

    name: str
    value: float
    n: int
    unit: str = ""
    higher_is_better: bool | None = None
    interval: tuple[float, float] | None = None
    signature: str = ""
    details: Mapping[str, float] = field(default_factory=dict)
    replicates: tuple[float, ...] = ()

    def __str__(self) -> str:
        interval = "" if self.interval is None else " [{:.4g}, {:.4g}]".format(*self.interval)
        text = f"{self.name} = {self.value:.4g}{interval} {self.unit}".rstrip()
        return f"{text} (n = {self.n}) {self.signature}".rstrip()

    def to_json(self) -> str:
        """The record as JSON, which `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Result:
        """The record that `to_json` wrote."""
        values = json.loads(text)
        if values["interval"] is not None:
            values["interval"] = tuple(values["interval"])
        values["replicates"] = tuple(values.get("replicates", ()))
        return cls(**values)

    def difference(self, other: Result, *, force: bool = False) -> float:
        """The difference of two values.

        Args:
            other: The result to subtract.
            force: Subtract values that are not comparable, too.

        Returns:
            `value - other.value`, in the unit of the metric.

        Raises:
            SignatureMismatch: The two were not measured in the same way, and `force` is not set.
        """
        if not force:
            Signature.parse(self.signature).require_like(Signature.parse(other.signature))
        return self.value - other.value
