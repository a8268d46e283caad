# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The scripts and their shared package are imported as they are when a script runs: datasets/ is on the path."""

from __future__ import annotations

import sys

from helpers.raw_datasets.scripts import DATASETS

sys.path.insert(0, str(DATASETS))
