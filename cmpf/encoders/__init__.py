# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Frozen encoders: CLIP image and text, SAM image, SAM mask proposals, and the tiny ones that CMPF ships."""
