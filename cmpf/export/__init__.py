# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The network as a file of torch.export or ONNX, and predictions from such a file.

    import cmpf
    from cmpf.export import export_model, load_exported
    report = export_model(cmpf.load("cmpf_tiny", device="cpu"), "tiny.onnx", format="onnx")
    print(report)                                    # what was left out, and how closely the file agrees
    seg = load_exported("tiny.onnx")                 # predicts as cmpf.load(...) with ensemble=False
    out = seg.predict("street.jpg", ["car", "person, pedestrian", "road", "sky"])

ONNX needs `pip install cmpf[export]`. The words of a machine that has no CLIP are kept by `save_words`.
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
