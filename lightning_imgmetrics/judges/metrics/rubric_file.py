"""Rubrics, from YAML or JSON: what to look at in a picture, one thing at a time. Importing this takes an extra."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from lightning_imgmetrics.data.records import json_value, shown
from lightning_imgmetrics.errors import UnknownName, UnreadableQuestions, require

require("pydantic", "judge")
require("yaml", "judge")

import yaml  # noqa: E402
from pydantic import (  # noqa: E402
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

SHIPPED = {path.stem: path for path in sorted((Path(__file__).parent / "rubric_files").glob("*.yaml"))}

_RESERVED = {"metric", "name", "id", "prompt", "score", "rationale", "rows", "rubric"}  # in records and calibrations
_RESERVED |= {"spread", "answers", "unparsed", "not_applicable", "n_not_applicable"}  # columns and details
_RESERVED |= {"n_failed", "n_clamped", "parse_failure_rate", "standard_error"}

Text = Annotated[str, Field(strict=True, min_length=1)]
Number = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Need = Literal["prompt", "source"]


class Criterion(BaseModel):
    """One thing to look at in a picture, asked about alone.

    Args:
        name: what its scores are called, of letters, digits, "_" and "-".
        question: answered by a number, the highest being best.
        scale: (lowest, highest) number.
        anchors: number -> what it means.
        weight: its part in the score, above 0.
        needs: what is shown beside the picture: "prompt", "source", or both.

    Raises:
        pydantic.ValidationError: a field is unknown, missing, or of another type or range.

    Example:
        >>> from lightning_imgmetrics import Criterion
        >>> Criterion(name="hands", question="Are hands well formed?", anchors={1: "deformed", 5: "faultless"}).weight
        1.0
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    name: Annotated[str, Field(strict=True, pattern=r"^[A-Za-z][A-Za-z0-9_-]*$", max_length=64)]
    question: Text
    scale: tuple[Number, Number] = (1.0, 5.0)
    anchors: dict[float, Text] = {}
    weight: Annotated[Number, Field(gt=0)] = 1.0
    needs: tuple[Need, ...] = ()

    @field_validator("name")
    @classmethod
    def _not_reserved(cls, name: str) -> str:
        if name in _RESERVED:
            raise ValueError("must be none of the names that results have for other things")
        return name

    @field_validator("scale")
    @classmethod
    def _ascending(cls, scale: tuple[float, float]) -> tuple[float, float]:
        if not scale[0] < scale[1]:
            raise ValueError("must be [lowest, highest]")
        return scale

    @field_validator("anchors")
    @classmethod
    def _on_scale(cls, anchors: dict[float, str], info: ValidationInfo) -> dict[float, str]:
        low, high = info.data.get("scale", (float("-inf"), float("inf")))
        if not all(low <= number <= high for number in anchors):
            raise ValueError(f"must be on the scale from {low:g} to {high:g}")
        return dict(sorted(anchors.items()))

    @field_validator("needs", mode="before")
    @classmethod
    def _one_or_both(cls, needs: Any) -> Any:
        several = isinstance(needs, list | tuple) and all(isinstance(need, str) for need in needs)
        return (needs,) if isinstance(needs, str) else sorted(set(needs)) if several else needs


class Rubric(BaseModel):
    """Criteria that a judge scores a picture by, for `RubricJudge`.

    Args:
        criteria: one or more, whose names differ.

    Raises:
        pydantic.ValidationError: no criterion, or two of one name.

    Example:
        >>> from lightning_imgmetrics import Criterion, Rubric
        >>> Rubric(criteria=[Criterion(name="hands", question="Are hands well formed?")]).digest
        '5eac845a'
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    criteria: Annotated[tuple[Criterion, ...], Field(min_length=1)]

    @field_validator("criteria")
    @classmethod
    def _new_names(cls, criteria: tuple[Criterion, ...]) -> tuple[Criterion, ...]:
        names = [criterion.name for criterion in criteria]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"must have names that differ, {twice!r} comes twice")
        return criteria

    @property
    def digest(self) -> str:
        """The first 8 digits of the sha256 of its canonical JSON, whatever way it was written down."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:8]


def read_rubric(rubric: Rubric | Mapping[str, Any] | str | Path) -> Rubric:
    """A rubric from a mapping, a file or a name.

    Args:
        rubric: a mapping {"criteria": [...]}, the path of a .yaml, .yml or .json file, or a rubric of this package:
            "text-to-image" or "image-edit".

    Returns:
        The rubric, checked.

    Raises:
        UnreadableQuestions: names the file, the criterion and the field that is wrong: one that is unknown or missing,
            a name that comes twice, a scale that does not ascend, an anchor off its scale, a weight that is not above
            0.
        UnknownName: no file of these kinds, and no rubric of this package.

    Example:
        >>> from lightning_imgmetrics import read_rubric
        >>> [criterion.name for criterion in read_rubric("image-edit").criteria]
        ['done', 'kept', 'natural']
    """
    if isinstance(rubric, Rubric):
        return rubric
    if isinstance(rubric, Mapping):
        return _checked(dict(rubric), "`rubric`")
    if not isinstance(rubric, str | Path):
        raise TypeError(f"`rubric` must be a Rubric, a mapping, a path or a name, got {shown(rubric)}")
    path = SHIPPED.get(str(rubric), Path(rubric).expanduser())
    if path.suffix.lower() not in (".yaml", ".yml", ".json"):
        raise UnknownName("rubric", str(rubric), [*SHIPPED, "PATH.yaml", "PATH.json"])
    return _checked(json_value(path) if path.suffix.lower() == ".json" else _yaml_value(path), str(path))


def _checked(value: Any, where: str) -> Rubric:
    try:
        return Rubric.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    path, reason = list(first["loc"]), first["msg"].removeprefix("Value error, ")
    if path[:1] == ["criteria"] and len(path) > 1:
        where += f", criterion {_name_of(value['criteria'], int(path[1]))}"
        path = path[2:]
    field = f", field {path[0]!r}" if path else ""
    got = "" if first["type"] == "missing" else f", got {shown(first['input'])}"
    raise UnreadableQuestions(f"{where}{field}: {reason[:1].lower()}{reason[1:]}{got}")


def _name_of(criteria: Any, number: int) -> str:
    """The name of a criterion where it has one, else which it is, counted from 1."""
    criterion = criteria[number]
    name = criterion.get("name") if isinstance(criterion, Mapping) else None
    return shown(name) if isinstance(name, str) and name else str(number + 1)


class _Loader(yaml.SafeLoader):
    """YAML's plain values; a key that comes twice is an error, where YAML would forget the first."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        value = super().construct_mapping(node, deep)  # refuses keys that cannot be compared
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            problem = f"the key {twice!r} comes twice"
            raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)
        return value


def _yaml_value(path: Path) -> Any:
    try:
        return yaml.load(path.read_bytes(), _Loader)
    except (yaml.YAMLError, RecursionError) as error:
        raise UnreadableQuestions(f"{path}: must be YAML, got {' '.join(str(error).split())}") from error
