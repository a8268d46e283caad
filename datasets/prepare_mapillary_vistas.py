# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Mapillary Vistas v1.2: verifies the release; puts the v1.2 part of a v2.0 package where v1.2 has it."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

from cmpf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main("mapillary_vistas"))
