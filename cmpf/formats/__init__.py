# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Readers and writers of images, videos, label maps, panoptic PNGs, masks and COCO JSON, shared by all packages."""
