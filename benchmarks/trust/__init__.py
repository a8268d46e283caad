# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Faults, hostile files and load: what `make trust` tries. docs/trust.md holds the last table and what is promised."""
