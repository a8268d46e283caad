# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Computes and saves SAM's mask proposals, like `cmpf save-sam-masks`.

Exit codes: 0 done; 1 error (one line; --debug shows the traceback); 2 usage.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

from cmpf.cli.sam_masks import main

if __name__ == "__main__":
    sys.exit(main())
