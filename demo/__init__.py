# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Demos. A package, so that `import demo` finds this folder even if demo/demo.py is the running script."""
