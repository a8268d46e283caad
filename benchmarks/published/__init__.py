# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The published formulation of each part, stated plainly from the papers: correct, and written without haste.

Trained weights are those of cmpf's modules, so that both compute the same thing; `naive` shares not even these. Tests
and benchmarks compare CMPF with what stands here, and state none of it themselves.
"""
