# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CMPF in other programs: Ray Data, FiftyOne, Hugging Face datasets. Modules import their host package on use."""

from cmpf.integrations.labeler import Labeler as Labeler
