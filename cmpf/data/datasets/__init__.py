# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What describes a dataset, the catalog of known ones, readers, own datasets, and the check of a dataset."""
