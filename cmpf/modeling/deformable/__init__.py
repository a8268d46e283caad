# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Multi-scale deformable attention, by PyTorch and by Triton, and the encoder that is made of it."""
