"""Tasks solved from compressed embeddings: splits, heads, classification, segmentation, regression, several labels."""

from nec.tasks.classification import ClassificationResult, classify
from nec.tasks.linear import LinearProbe, fit_path, fit_probe, pooled_features
from nec.tasks.regression import TargetResult, fit_targets
from nec.tasks.segmentation import SegmentationResult, segment
from nec.tasks.splits import Split, choose_split
from nec.tasks.targets import Targets, load_targets

__all__ = [
    "ClassificationResult",
    "LinearProbe",
    "SegmentationResult",
    "Split",
    "TargetResult",
    "Targets",
    "choose_split",
    "classify",
    "fit_path",
    "fit_probe",
    "fit_targets",
    "load_targets",
    "pooled_features",
    "segment",
]
