# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ADE20K, 150 classes: label maps with classes numbered from 0."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

from cmpf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main("ade20k_semantic"))
