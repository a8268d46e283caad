# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Exports the network with torch.export or to ONNX, and predicts with exported files.

    import cmpf
    from cmpf.export import export_model, load_exported
    report = export_model(cmpf.load("cmpf_tiny", device="cpu"), "tiny.onnx", format="onnx")
    print(report)                                    # what was left out, and differences from the model
    seg = load_exported("tiny.onnx")                 # predicts as cmpf.load(...) with ensemble=False
    out = seg.predict("street.jpg", ["car", "person, pedestrian", "road", "sky"])

ONNX needs `pip install cmpf[export]`. `save_words` saves text embeddings for machines without CLIP.
"""

from __future__ import annotations

from cmpf.export.exporting import Agreement, ExportReport, export_model, left_out
from cmpf.export.programs import FORMATS
from cmpf.export.running import ExportedModel, load_exported, save_words

__all__ = [
    "FORMATS",
    "Agreement",
    "ExportReport",
    "ExportedModel",
    "export_model",
    "left_out",
    "load_exported",
    "save_words",
]
