"""The judge that an argument names."""

from __future__ import annotations

from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.clip_flant5 import ClipFlanT5Judge, is_clip_flant5
from lightning_imgmetrics.judges.backends.local import LocalJudge


def as_judge(judge: Judge | str) -> Judge:
    """A judge itself; or of a text, the local checkpoint of that folder or hub id, or "MODEL@URL" on a server."""
    if isinstance(judge, Judge):
        return judge
    if not isinstance(judge, str) or not judge:
        raise TypeError(f"`judge` must be a Judge, a checkpoint or 'MODEL@URL' of a server, got {judge!r}")
    model, at, url = judge.rpartition("@")
    if at and url.startswith(("http://", "https://")):
        from lightning_imgmetrics.judges.backends.server import ServerJudge

        return ServerJudge(model, url)
    return ClipFlanT5Judge(judge) if is_clip_flant5(judge) else LocalJudge(judge)
