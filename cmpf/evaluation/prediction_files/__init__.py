# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reading and scoring prediction files of any model (cmpf evaluate-predictions)."""
