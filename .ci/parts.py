# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Says which optional parts the tests ran with, and which were absent: tests of the latter skip themselves."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

# Part -> its modules, and its programs.
PARTS = {
    "Detectron2": (("detectron2", "panopticapi"), ()),
    "gradio + Chromium": (("gradio", "selenium"), ("chromium", "chromedriver")),
    "PyAV": (("av",), ()),
    "Ray": (("ray",), ()),
}


def main() -> None:
    """One line a part."""
    for name, (modules, programs) in PARTS.items():
        missing = [m for m in modules if find_spec(m) is None] + [p for p in programs if not shutil.which(p)]
        print(f"{name}: absent, no {', '.join(missing)}" if missing else f"{name}: ran")


if __name__ == "__main__":
    main()
