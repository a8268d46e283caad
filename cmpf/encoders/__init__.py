# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CLIP and SAM encoders, SAM mask proposals, text embeddings, and the tiny encoders shipped with CMPF."""
