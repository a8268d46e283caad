# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""BDD100K semantic, 19 classes: verifies the released masks, and creates missing ones from the bitmasks."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

from cmpf.cli.prepare import main

if __name__ == "__main__":
    sys.exit(main("bdd100k_semantic"))
