# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Training: optimizer, schedule, trainer, checkpoints, logging. Takes built objects, no configuration."""
