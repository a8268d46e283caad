# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Multi-scale deformable attention, by PyTorch or Triton, and the deformable encoder.

Shape letters, in addition to those of cmpf/types.py: L levels (feature maps of one image); S cells of all levels,
flattened row by row and concatenated; Q queries (in the encoder one per cell); M heads; P sampling points per head and
level; D width of the layer or of one head.
"""
