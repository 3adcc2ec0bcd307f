"""What this package takes from openai's client beyond its documentation: the HTTP library's error behind its own."""

from __future__ import annotations

_UNREACHABLE = ("ConnectError", "ConnectTimeout")  # names in httpx and httpx2, on which openai's client is built


def connection_failure(error: Exception) -> tuple[bool, str]:
    """Whether an `openai.APIConnectionError` says that nobody listens at the address, and the reason in words.

    The client raises its error from that of its HTTP library.
    """
    cause = error.__cause__
    name = type(cause).__name__
    return name in _UNREACHABLE, f"{name}: {cause}".rstrip(": ")
