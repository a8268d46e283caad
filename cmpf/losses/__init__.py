# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training losses: Mask2Former's matching, points and set criterion, and those of CLIP's names of masks."""

from cmpf.losses.adapter import AdapterCriterion
from cmpf.losses.criterion import SetCriterion
from cmpf.losses.matcher import HungarianMatcher

__all__ = ["AdapterCriterion", "HungarianMatcher", "SetCriterion"]
