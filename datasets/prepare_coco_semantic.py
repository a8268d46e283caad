# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""COCO panoptic: label maps of all 133 classes, created from the panoptic PNGs."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

from cmpf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main("coco_semantic"))
