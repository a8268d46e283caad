# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Augmentations of images together with their labels."""
