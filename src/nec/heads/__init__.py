"""Heads on embeddings: trained from stores or images, saved, and applied."""

from nec.heads.head import Head, load_head
from nec.heads.linear import LinearProbe, fit_path, fit_probe, fit_ridge, pooled_features
from nec.heads.prediction import PredictReport, predict
from nec.heads.splits import Split, choose_split
from nec.heads.targets import Targets, load_targets
from nec.heads.train import HeadReport, HeadResult, HeadSettings, train_head

__all__ = [
    "Head",
    "HeadReport",
    "HeadResult",
    "HeadSettings",
    "LinearProbe",
    "PredictReport",
    "Split",
    "Targets",
    "choose_split",
    "fit_path",
    "fit_probe",
    "fit_ridge",
    "load_head",
    "load_targets",
    "pooled_features",
    "predict",
    "train_head",
]
