# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A naive float64 implementation of the published system without CMPF's modules, the reference of the golden tests.

Weights are a state dict under published names. It processes one image at a time and uses loops.
"""
