# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Parts of tools/save_sam_masks.py: the list of images, making masks, doing so in several processes."""
