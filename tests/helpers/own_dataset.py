# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The fruit bowls of tests/data/own_dataset, as copies that tests may spoil."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SOURCE = Path(__file__).resolve().parent.parent / "data" / "own_dataset"


def copy_own_dataset(folder: Path) -> Path:
    """A copy of the data set in a new folder, which is returned."""
    return Path(shutil.copytree(SOURCE, folder / "own_dataset"))


def change_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Rewrites a JSON file after `change` has changed its content in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_pixels(path: Path, change: Callable[[np.ndarray], np.ndarray | None]) -> None:
    """Rewrites an image after `change` has changed its pixels in place, or has returned others."""
    pixels = np.array(Image.open(path))
    changed = change(pixels)
    Image.fromarray(pixels if changed is None else changed).save(path)
