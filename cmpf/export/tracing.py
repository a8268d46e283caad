# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""torch.export of the network, with symbols for what may change from call to call."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from cmpf.errors import ConfigError
from cmpf.export.network import ExportNetwork

STRIDE = 32  # of the coarsest map; image sizes are multiples of it
SMALLEST, LARGEST = 64, 8192  # sides in pixels; a map of one row would be another program
MOST_NAMES = 1_000_000  # synonyms, and classes


def check_size(size: tuple[int, int]) -> None:
    """Raises ConfigError unless an image size (H, W) fits the network."""
    for side in size:
        if side % STRIDE or not SMALLEST <= side <= LARGEST:
            raise ConfigError(
                f"image size {size[0]} x {size[1]}: height and width must be multiples of {STRIDE}, "
                f"{SMALLEST} to {LARGEST}; {max(SMALLEST, -(-side // STRIDE) * STRIDE)} is near {side}"
            )


def example_inputs(
    network: ExportNetwork,
    size: tuple[int, int],
    *,
    synonyms: int,
    classes: int,
    padding: tuple[int, int] = (0, 0),
    seed: int = 0,
) -> dict[str, Tensor]:
    """Inputs of ExportNetwork by name: smooth noise as the image, random unit vectors as text.

    Args:
        network: decides the device and the width E.
        size: (H, W) with padding.
        synonyms, classes: T and K, T >= K.
        padding: rows and columns of `size` that are padding.
    """
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 9, 11, generator=generator) * 255
    text = torch.randn(synonyms, network.void_embedding.embedding_dim, generator=generator)
    extra = torch.randint(0, classes, (synonyms - classes,), generator=generator)
    inputs = {
        "image": F.interpolate(coarse, size=size, mode="bilinear", align_corners=False),
        "size": torch.tensor([size[0] - padding[0], size[1] - padding[1]]),
        "text": F.normalize(text, dim=-1),
        "class_of_row": torch.cat([torch.arange(classes), extra]).sort().values,
        "seen": torch.rand(classes, generator=generator) < 0.5,
    }
    return {name: value.to(network.pixel_mean.device) for name, value in inputs.items()}


def trace(network: ExportNetwork, *, size: tuple[int, int], dynamic: bool) -> ExportedProgram:
    """The network as a program.

    Args:
        size: (H, W) of the example, and with `dynamic` off of all images.
        dynamic: whether images may have other sizes. The numbers of classes and synonyms are always free.
    Raises:
        ConfigError: the size does not fit the network.
    """
    check_size(size)
    example = example_inputs(network, size, synonyms=7, classes=5)
    with torch.no_grad():
        # Tables that the encoders remember are made here: inside torch.export they would be made of symbols.
        network(**example)
        return torch.export.export(network, (), kwargs=example, dynamic_shapes=_shapes(dynamic), strict=False)


def _shapes(dynamic: bool) -> dict[str, Any]:
    """What may change: input -> axis -> symbol."""
    synonyms, classes = Dim("synonyms", min=1, max=MOST_NAMES), Dim("classes", min=1, max=MOST_NAMES)
    sides = {}
    if dynamic:
        height, width = (
            STRIDE * Dim(name, min=SMALLEST // STRIDE, max=LARGEST // STRIDE) for name in ("rows", "columns")
        )
        sides = {2: height, 3: width}
    return {
        "image": sides,
        "size": {},
        "text": {0: synonyms},
        "class_of_row": {0: synonyms},
        "seen": {0: classes},
    }
