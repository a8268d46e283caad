# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Demos. A package, so that `import demo` means this folder also where demo/demo.py is the script that runs."""
