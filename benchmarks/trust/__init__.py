# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Robustness trials of `make trust`: crashes, hostile files and load. docs/trust.md has the latest results."""
