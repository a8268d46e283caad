# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""COCO-Stuff 164k: stuff-and-things label maps with contiguous classes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

from cmpf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main("coco_stuff"))
