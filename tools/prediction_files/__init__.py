# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Parts of tools/evaluate_predictions.py: reading and scoring prediction files of any model."""
