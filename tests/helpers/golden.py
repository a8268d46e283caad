# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The golden outputs of the published arithmetic: names, seeded weights and comparison."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

FOLDER = Path(__file__).resolve().parent.parent / "data" / "golden"


def read_names(file: str) -> Any:
    """Names and shapes of a compressed JSON file."""
    return json.loads(gzip.decompress((FOLDER / file).read_bytes()))


def seeded(name: str, shape: tuple[int, ...]) -> Tensor:
    """The weights of an entry of the published naming, from the name alone."""
    noise = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    return torch.from_numpy(np.asarray(_sized(name, noise), dtype=np.float32))


def _sized(name: str, noise: NDArray[np.float32]) -> Any:
    if name.endswith("running_var"):
        return 1 + 0.1 * np.abs(noise)
    if name.endswith("logit_scale"):
        return np.full(noise.shape, np.log(100.0))
    if noise.ndim <= 1:
        return 1 + 0.05 * noise if name.endswith("weight") else 0.02 * noise
    root = float(np.sqrt(np.prod(noise.shape[1:])))
    factor = 1 / root
    if "query_feat" in name or "query_embed" in name:
        factor *= root
    if "mask_embed.layers.2" in name:
        factor *= 4
    if "class_embed" in name:
        factor *= 2
    if "token_embedding" in name:
        factor *= 3 * root
    if "positional_embedding" in name and "attnpool" not in name:
        factor *= 0.3
    return noise * factor


def golden_image() -> Tensor:
    """(3, 320, 416) float RGB 0..255: NASA's portrait of Eileen Collins (public domain), resized by OpenCV."""
    with Image.open(FOLDER / "g1_astronaut_416x320.webp") as image:
        return torch.from_numpy(np.asarray(image.convert("RGB"), dtype=np.float32)).permute(2, 0, 1)


def nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, C, H, W) picked at fewer places."""
    return torch.nn.functional.interpolate(maps.float(), size=size, mode="nearest")


def distance(found: Tensor | NDArray[Any], expected: NDArray[Any]) -> float:
    """Largest difference as a share of the expected array's spread."""
    difference = np.abs(np.asarray(found, dtype=np.float64) - expected).max()
    spread = max(float(expected.std()), np.finfo(np.float64).tiny)
    return float(difference / spread)
