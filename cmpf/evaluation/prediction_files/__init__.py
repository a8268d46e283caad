# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reads and evaluates prediction files of any model (cmpf evaluate-predictions)."""
