# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Trains or evaluates a model from a configuration file, like `cmpf train` and `cmpf eval`.

Exit codes: 0 done, or stopped by a signal with everything saved; 1 error (one line; --debug shows the
traceback); 2 usage.
"""

from __future__ import annotations

import sys

from cmpf.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
