"""Encode a scene in a process of its own, which a test kills: run_encode.py MODEL SCENE OUT [--resume] [--dask]."""

from __future__ import annotations

import sys

from scene_runs import encode_scene

from nec.models import load_model
from nec.scenes import open_scene
from scenes import LAYOUT


def main() -> None:
    model, scene, out, *flags = sys.argv[1:]
    options = {"engine": "dask", "workers": 1, "threads": 1} if "--dask" in flags else {}
    print("ready", flush=True)
    encode_scene(open_scene(scene), load_model(model), out, resume="--resume" in flags, **LAYOUT, **options)


if __name__ == "__main__":
    main()
