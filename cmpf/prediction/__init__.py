# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The result of `predict`, and the files and formats it can be turned into."""

from __future__ import annotations

from cmpf.prediction.files import FORMATS
from cmpf.prediction.from_result import prediction_of
from cmpf.prediction.parts import Instances, Segment
from cmpf.prediction.prediction import Prediction, unique_names

__all__ = ["FORMATS", "Instances", "Prediction", "Segment", "prediction_of", "unique_names"]
