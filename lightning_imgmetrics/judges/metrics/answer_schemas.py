"""The JSON in which a judge answers this package's own questions. Importing this needs pydantic."""

from __future__ import annotations

from typing import Annotated

from lightning_imgmetrics.errors import require
from lightning_imgmetrics.judges.parsing.answers import as_number

require("pydantic", "judge")

from pydantic import BaseModel, BeforeValidator, Field  # noqa: E402

Reasons = Annotated[str, Field(min_length=1)]
Whole = Annotated[int, BeforeValidator(as_number)]


class Scored(BaseModel):
    """Reasons, and the number that they lead to."""

    reasoning: Reasons
    score: Annotated[float, BeforeValidator(as_number)]


class Chosen(BaseModel):
    """Reasons, and the better of two pictures: 1 or 2, or 0 for neither."""

    reasoning: Reasons
    winner: Annotated[Whole, Field(ge=0, le=2)]


class Ranked(BaseModel):
    """Reasons, and the numbers of the pictures, the best first."""

    reasoning: Reasons
    ranking: list[Whole]
