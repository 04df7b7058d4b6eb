"""`nec.encode` of one scene with all options in one row, as tests vary them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nec.encoding import Running, SceneOptions, encode

_RUNNING = ("workers", "threads", "scheduler", "batch_size", "seed")
_SCENES = ("halo", "chunk", "shard", "skip_failed")


def encode_scene(scene: Any, model: Any, out: str | Path, **options: Any) -> dict[str, Any]:
    """What was made, as the JSON of the report."""
    ways = ("resume", "append", "overwrite")
    mode = "-".join(name for name in ways if options.pop(name, False)) or "create"
    running = Running(**{name: options.pop(name) for name in _RUNNING if name in options})
    time = options.pop("time", None)
    scenes = SceneOptions(
        None if time is None else [time], **{name: options.pop(name) for name in _SCENES if name in options}
    )
    return encode(scene, out, model, mode=mode, scenes=scenes, running=running, **options).to_dict()  # type: ignore[arg-type]
