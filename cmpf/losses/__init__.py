# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training losses: bipartite matching, point sampling and the set criterion of Mask2Former."""

from cmpf.losses.criterion import SetCriterion
from cmpf.losses.matcher import HungarianMatcher

__all__ = ["HungarianMatcher", "SetCriterion"]
