# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Utilities for all packages: atomic files, tensors, processes and distributed runs."""
