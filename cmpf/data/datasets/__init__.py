# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Dataset specs, the catalog of built-in datasets, custom datasets from YAML files, readers and validation."""
