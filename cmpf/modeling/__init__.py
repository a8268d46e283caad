# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Trained modules of CMPF: pixel decoder, SAM branch and transformer decoder with its injectors."""
