# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The trained parts: pixel decoder, SAM branch, transformer decoder with its injectors."""
