# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Frozen SAM image encoder."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor

from cmpf.encoders import tiny
from cmpf.encoders.frozen import FrozenModule
from cmpf.encoders.weights import cache_folder, load_weights
from cmpf.errors import ModelNameError, WeightsError
from cmpf.functional import resize_bilinear

OPTION = "MODEL.CMPF.SAM.CHECKPOINT"
ENSEMBLE_OPTION = "TEST.ENSEMBLE.SAM_CHECKPOINT"
RANDOM = "random"
URL = "https://dl.fbaipublicfiles.com/segment_anything"
PUBLISHED = {
    "vit_b": "sam_vit_b_01ec64.pth",
    "vit_l": "sam_vit_l_0b3195.pth",
    "vit_h": "sam_vit_h_4b8939.pth",
}


class SAMEncoder(FrozenModule):
    """A frozen SAM; called, it gives the image encoder's final embedding (paper, Sec. 3.1).

    Args:
        name: SAM's name, for messages, hashes and caches.
        sam: segment_anything's `Sam`. Its prompt encoder and mask decoder are kept for mask proposals.
    Attributes:
        input_size: side of the square that the encoder sees, in pixels. embed_channels: S.
    """

    def __init__(self, *, name: str, sam: Any) -> None:
        super().__init__()
        self.name = f"sam/{name}"
        self.sam = sam
        self.input_size: int = sam.image_encoder.img_size
        self.embed_channels: int = sam.prompt_encoder.embed_dim
        self.freeze()

    def weights(self) -> Mapping[str, Tensor]:
        """Weights under segment_anything's own names."""
        state: Mapping[str, Tensor] = self.sam.state_dict()
        return state

    def forward(self, images_B3HW: Tensor) -> Tensor:
        """Image embeddings.

        Args:
            images_B3HW: pictures with SAM's normalisation, padded; squashed to the square input, whatever
                their aspect ratio.
        Returns:
            (B, S, hs, ws), for the published models (B, 256, 64, 64).
        """
        side = self.input_size
        embedding: Tensor = self.sam.image_encoder(resize_bilinear(images_B3HW, (side, side)))
        return embedding


def build_sam(*, name: str, checkpoint: str) -> SAMEncoder:
    """A frozen SAM.

    Args:
        name: "vit_b", "vit_l", "vit_h" or "cmpf_tiny".
        checkpoint: "" = the published file in the cache folder (for cmpf_tiny the one that CMPF ships),
            "random", or the path of a file.
    Raises:
        ModelNameError: unknown name.
        WeightsError: the file is missing, damaged or of another model; says where to get and to put it.
    """
    names = [*PUBLISHED, tiny.SAM_NAME]
    if name not in names:
        near = get_close_matches(name.lower(), names, n=1)
        hint = f", did you mean {near[0]}?" if near else "."
        raise ModelNameError(f"SAM {name!r} is unknown{hint} What works: {', '.join(names)}")
    if name == tiny.SAM_NAME and not checkpoint:
        return SAMEncoder(name=name, sam=tiny.load_tiny_sam())
    path = _checkpoint_file(name, checkpoint)
    sam = _architecture(name)
    if path is not None:
        load_weights(sam, path)
    return SAMEncoder(name=name, sam=sam)


def _checkpoint_file(name: str, checkpoint: str) -> Path | None:
    """The file of weights, checked to exist before a large model is built; None = random weights."""
    if checkpoint == RANDOM:
        return None
    if checkpoint:
        path = Path(checkpoint).expanduser()
        if not path.is_file():
            raise WeightsError(
                f'{OPTION} {checkpoint!r}: no such file; give a path, "" for the published file, or "random"'
            )
        return path
    path = cache_folder() / PUBLISHED[name]
    if not path.is_file():
        raise WeightsError(
            f"weights of SAM {name} are not on this machine: save {URL}/{path.name} as {path}, or set "
            f"{OPTION} (for mask proposals {ENSEMBLE_OPTION}) to the path of the file, "
            f'or to "{RANDOM}" for random weights'
        )
    return path


def _architecture(name: str) -> Any:
    if name == tiny.SAM_NAME:
        return tiny.build_tiny_sam()
    from segment_anything import sam_model_registry

    return sam_model_registry[name]()
