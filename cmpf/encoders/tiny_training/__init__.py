# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training of the tiny encoders that CMPF ships; see tools/train_tiny_encoders.py."""
