# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What every layer may use: atomic files, tensors, the processes of a run."""
