"""Tasks solved from compressed embeddings: splits, heads, classification, segmentation."""

from nec.tasks.classification import ClassificationResult, classify
from nec.tasks.linear import LinearProbe, fit_path, fit_probe, pooled_features
from nec.tasks.segmentation import SegmentationResult, segment
from nec.tasks.splits import Split, choose_split

__all__ = [
    "ClassificationResult",
    "LinearProbe",
    "SegmentationResult",
    "Split",
    "choose_split",
    "classify",
    "fit_path",
    "fit_probe",
    "pooled_features",
    "segment",
]
