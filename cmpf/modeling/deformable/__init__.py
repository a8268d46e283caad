# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Multi-scale deformable attention, by PyTorch and by Triton, and the encoder that is made of it.

Shape letters here, beside those of cmpf/types.py: L levels, that is feature maps of one image; S cells of all levels,
flattened row by row, one level after another; Q queries, in the encoder one per cell; M heads; P points that a head
reads on one level; D width, of the layer or of one head.
"""
