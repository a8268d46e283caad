# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The published system in float64, written out without any of cmpf's modules: what the golden tests compare with.

Weights are a state dict under published names; one image at a time, loops where the papers have indices.
"""
