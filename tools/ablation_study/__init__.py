# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Parts of tools/ablation.py: planning runs, running them in processes, the table."""
