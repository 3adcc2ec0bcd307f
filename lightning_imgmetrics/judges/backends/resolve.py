"""What names a judge, and what kind of model it is."""

from __future__ import annotations

import json

from lightning_imgmetrics.errors import WeightsMismatch
from lightning_imgmetrics.judges.backends.base import Judge
from lightning_imgmetrics.judges.backends.clip_flant5 import ClipFlanT5Judge, is_clip_flant5
from lightning_imgmetrics.judges.backends.local import LocalJudge
from lightning_imgmetrics.models.base.checkpoint import checkpoint_file


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


def model_kind(judge: Judge) -> tuple[str, str]:
    """`model_type` of a local judge, and that of its language model, as its configuration has them; else empty texts.

    MissingWeights where the configuration is neither on this machine nor on the hub, WeightsMismatch where it is none.
    """
    if isinstance(judge, ClipFlanT5Judge):
        return "clip_t5", "t5"
    if not isinstance(judge, LocalJudge):
        return "", ""
    path = checkpoint_file(judge.model, "config.json", judge.revision)
    try:
        config = {} if path is None else json.loads(path.read_text(encoding="utf-8"))
        return config.get("model_type", ""), (config.get("text_config") or {}).get("model_type", "")
    except (ValueError, AttributeError) as error:
        raise WeightsMismatch(f"{path} cannot be read as the configuration of a checkpoint: {error}") from error
