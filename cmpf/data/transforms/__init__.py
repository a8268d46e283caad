# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Augmentations and resizing of images together with their label maps."""
