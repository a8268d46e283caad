# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The only code that reads or writes a file format: images, label maps, panoptic PNGs, masks, COCO JSON."""
