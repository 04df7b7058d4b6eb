"""Values of labels that every room shares."""

from __future__ import annotations

#: In masks: a pixel whose label is absent, ignored or unknown. It enters no loss and no metric.
IGNORE = 255
SPLITS = ("", "train", "val", "test")
