# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Opens every file of a dataset and tells what is wrong, all of it: readers stop at the first file that is."""

from __future__ import annotations

from cmpf.data.datasets.validate.checking import check_dataset
from cmpf.data.datasets.validate.findings import Finding, Mistake

__all__ = ["Finding", "Mistake", "check_dataset"]
