# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""python -m cmpf is the command `cmpf`."""

import sys

from cmpf.cli import main

if __name__ == "__main__":
    sys.exit(main())
