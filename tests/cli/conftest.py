from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cli_parts import make_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Arguments of `evaluate`: generated images, reference, prompts."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def images(inputs: list[Any]) -> Path:
    """The folder that holds generated/ and reference/."""
    return inputs[0].parent
