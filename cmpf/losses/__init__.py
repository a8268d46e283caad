# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training losses: Mask2Former's matcher and set criterion, and losses of CLIP's mask classification.

Additional shape letters: L prediction heads, first to last; P points sampled from a mask; M matched pairs of a query
and a target.
"""

from cmpf.losses.clip_names import AdapterCriterion
from cmpf.losses.criterion import SetCriterion
from cmpf.losses.matcher import HungarianMatcher

__all__ = ["AdapterCriterion", "HungarianMatcher", "SetCriterion"]
