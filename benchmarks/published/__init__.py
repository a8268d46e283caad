# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Straightforward implementations of the published formulations, written from the papers, as a reference.

They use the weights of CMPF's modules so that results can be compared; `naive` shares no modules at all. Tests and
benchmarks compare CMPF with them and contain no other reference implementation.
"""
