# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Entry point of `python -m cmpf.cli`."""

import sys

from cmpf.cli import main

if __name__ == "__main__":
    sys.exit(main())
