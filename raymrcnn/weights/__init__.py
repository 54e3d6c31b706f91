"""Weight files in, state dicts out."""

from raymrcnn.weights.architecture import infer_architecture
from raymrcnn.weights.load import LoadReport, backbone_init, load_into
from raymrcnn.weights.source import ModelSource, WeightSource, load_model_source, load_source

__all__ = [
    "LoadReport",
    "ModelSource",
    "WeightSource",
    "backbone_init",
    "infer_architecture",
    "load_into",
    "load_model_source",
    "load_source",
]
