# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Scores prediction files of any model, like `cmpf evaluate-predictions`.

Exit codes: 0 done; 1 error (one line; --debug shows the traceback); 2 usage.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # runs without installation

from cmpf.cli.results import predictions_main as main

if __name__ == "__main__":
    sys.exit(main())
