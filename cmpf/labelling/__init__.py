# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""From many images to label files: what was found in each as a record, and the formats made of records."""
