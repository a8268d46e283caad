# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import subprocess
import sys

from cmpf.encoders import tiny


def test_everything_that_others_need_is_in_one_place() -> None:
    assert all(hasattr(tiny, name) for name in tiny.__all__)


def test_importing_it_registers_nothing_and_opens_nothing() -> None:
    code = (
        "import sys, cmpf.encoders.tiny; print({'open_clip', 'timm', 'segment_anything'} & set(sys.modules))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == "set()"
