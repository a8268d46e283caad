# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Labels many images: finds and reads them, records the predicted segments, and writes dataset files."""
