# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""ADE20K full (A-847): 16-bit label maps of the 847 most frequent classes, and all images in one folder per split."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

from cmpf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main("ade20k_full"))
