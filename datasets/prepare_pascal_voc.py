# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""PASCAL VOC 2012: label maps of 21 classes (with background) and of 20 classes; one image folder per split."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

from cmpf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main("pascal_voc"))
