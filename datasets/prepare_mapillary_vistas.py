# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Mapillary Vistas v1.2: verifies the release; links the v1.2 files of a v2.0 package to their v1.2 paths."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

from cmpf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main("mapillary_vistas"))
