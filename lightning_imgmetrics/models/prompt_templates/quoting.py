"""Texts of others between tags, in questions to a judge."""

from __future__ import annotations

import re


def inert(text: str, tag: str) -> str:
    """The text; what would open or close `tag`, or a tag that begins like it, loses its bracket: "&lt;"."""
    return re.sub(rf"[<＜](?=\s*[/／]?\s*{re.escape(tag)})", "&lt;", text, flags=re.IGNORECASE)
