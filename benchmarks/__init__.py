# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Compares speed and memory of CMPF with the published formulation: `python -m benchmarks --help`."""
