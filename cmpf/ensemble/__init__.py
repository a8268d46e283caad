# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Zero-shot ensembles: decoder and CLIP over classes, decoder and SAM over masks."""

from cmpf.ensemble.geometric import geometric_ensemble
from cmpf.ensemble.mask_ensemble import openseg_ensemble

__all__ = ["geometric_ensemble", "openseg_ensemble"]
