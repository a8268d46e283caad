# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Speed and memory of CMPF beside the published formulation, in one process: `python -m benchmarks --help`."""
