"""Tasks solved from compressed embeddings: splits, heads, classification, segmentation, regression, several labels."""

from nec.heads.classification import ClassificationResult, classify
from nec.heads.linear import LinearProbe, fit_path, fit_probe, pooled_features
from nec.heads.regression import TargetResult, fit_targets
from nec.heads.segmentation import SegmentationResult, segment
from nec.heads.splits import Split, choose_split
from nec.heads.targets import Targets, load_targets

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
