"""What `_compat.openai` relies on, checked against the installed client."""

from __future__ import annotations

import socket

import openai
import pytest

from lightning_imgmetrics._compat.openai import connection_failure

CHANGED = "openai's client changed how it raises connection errors: adapt lightning_imgmetrics/_compat/openai.py"


def error_at(port: int) -> openai.APIConnectionError:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0, timeout=0.2)
    with pytest.raises(openai.APIConnectionError) as caught:
        client.models.list()
    return caught.value


def test_an_address_without_a_server_is_recognized() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    unreachable, reason = connection_failure(error_at(port))
    assert unreachable, f"{CHANGED} (got {reason!r})"
    assert "ConnectError" in reason, CHANGED


def test_a_server_that_does_not_answer_is_not_an_absent_one() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        unreachable, reason = connection_failure(error_at(server.getsockname()[1]))
    assert not unreachable, f"{CHANGED} (got {reason!r})"
