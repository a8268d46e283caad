# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training of the tiny CLIP and SAM shipped with CMPF; see tools/train_tiny_encoders.py."""
