# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training losses: Mask2Former's matching, points and set criterion, and those of CLIP's names of masks.

Shape letters here, beside those of cmpf/types.py: L prediction heads, the first layer's first; P points, at which masks
are compared; M matched pairs of a query and a target.
"""

from cmpf.losses.clip_names import AdapterCriterion
from cmpf.losses.criterion import SetCriterion
from cmpf.losses.matcher import HungarianMatcher

__all__ = ["AdapterCriterion", "HungarianMatcher", "SetCriterion"]
