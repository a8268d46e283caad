# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""FrozenEncoders: runs CLIP and SAM on a batch, on a GPU concurrently."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.profiler import record_function

from cmpf.common.tensors import device_constant, normalize_and_pad
from cmpf.encoders.clip import CLIP
from cmpf.encoders.sam import SAMEncoder
from cmpf.encoders.sam_proposals import Proposals
from cmpf.types import FrozenFeatures, Sample

SAM_PIXEL_MEAN = (123.675, 116.28, 103.53)
SAM_PIXEL_STD = (58.395, 57.12, 57.375)
SharedEmbedding = Callable[[SAMEncoder], "Tensor | None"]


class MaskSource(Protocol):
    """Source of SAM's automatic masks."""

    def masks(self, sample: Sample, *, shared: SharedEmbedding, device: torch.device) -> Proposals:
        """Returns the masks of one image on a device.

        Args:
            sample: one image, `image` (3, H, W) RGB 0..255.
            shared: returns the embedding of this image alone if the given SAM has already computed it, else None.
        """


class FrozenEncoders(nn.Module):
    """CLIP, SAM and SAM's mask proposals. Only a CLIP with a trained trunk is trained and stored in checkpoints.

    Args:
        clip: CLIP's image and text encoders.
        sam: SAM, whose embedding the decoder reads; None = the decoder does not use SAM.
        mask_source: source of SAM's automatic masks; None = only the `sam_masks` of samples.
        sam_keeps_aspect: whether SAM processes images in their aspect ratio, see SAMEncoder.
        pixel_mean, pixel_std: normalization of CLIP's input, (3,) in 0..255.
        size_divisibility: padded input sizes are multiples of this.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        *,
        clip: CLIP,
        sam: SAMEncoder | None,
        mask_source: MaskSource | None,
        sam_keeps_aspect: bool = False,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        size_divisibility: int,
    ) -> None:
        super().__init__()
        self.clip = clip
        self.sam = sam
        self.mask_source = mask_source
        self.sam_keeps_aspect = sam_keeps_aspect
        self.size_divisibility = size_divisibility
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32), persistent=False)

    @property
    def device(self) -> torch.device:
        """Device of the encoders."""
        return self.pixel_mean.device

    def hashes(self) -> dict[str, str]:
        """Name -> content hash of the encoders that checkpoints depend on; a tuned CLIP is part of the checkpoint."""
        clip = None if self.clip.tuned else self.clip
        return {encoder.name: encoder.weights_hash for encoder in (clip, self.sam) if encoder is not None}

    def forward(
        self, batch: Sequence[Sample], *, with_sam: bool, sam_alone: bool = False
    ) -> tuple[FrozenFeatures, tuple[int, int], list[tuple[int, int]]]:
        """Computes the features of a batch.

        Args:
            batch: samples with `image` (3, H, W) RGB 0..255.
            with_sam, sam_alone: see features.
        Returns:
            Features; the padded size (H, W) of the batch; the B sizes without padding.
        """
        images, sizes = self.images(batch)
        padded = (images.shape[-2], images.shape[-1])
        return self.features(batch, images, with_sam=with_sam, sam_alone=sam_alone), padded, sizes

    def images(self, batch: Sequence[Sample]) -> tuple[Tensor, list[tuple[int, int]]]:
        """CLIP's input (B, 3, H, W), normalized and padded, and the B sizes without padding."""
        return normalize_and_pad(
            [sample["image"] for sample in batch],
            mean=self.pixel_mean,
            std=self.pixel_std,
            divisor=self.size_divisibility,
        )

    def features(
        self, batch: Sequence[Sample], images: Tensor, *, with_sam: bool, sam_alone: bool = False
    ) -> FrozenFeatures:
        """Computes the features of a batch, given CLIP's input `images`.

        Args:
            batch: samples with `image` (3, H, W) RGB 0..255.
            images: see `images`.
            with_sam: whether SAM's embedding is needed.
            sam_alone: whether SAM embeds each image alone, if all have the same size; `masks` then reuses it.
        """
        if not with_sam or self.sam is None:
            return FrozenFeatures(clip=self.clip(images), sam=None)
        alone = len(batch) == 1 or (sam_alone and _have_one_size(batch))
        parts = [[sample] for sample in batch] if alone else [batch]
        sam_embedding = run_on_side_stream(partial(self._embed, self.sam, parts), self.device)
        return FrozenFeatures(clip=self.clip(images), sam=sam_embedding(), sam_alone=alone)

    @torch.no_grad()
    def masks(
        self, batch: Sequence[Sample], features: FrozenFeatures, *, exact: bool = True
    ) -> list[Proposals | None]:
        """SAM's masks of each image: the sample's `sam_masks`, else those of the mask source; None without a source.

        SAM's embedding in `features` is reused if it was computed from the image alone, resized to SAM's square input.

        Args:
            batch: samples.
            features: features of the batch.
            exact: whether the masks must not depend on the other images in the batch. False = if all images have the
                same size, reuse SAM's embedding of the batch, which differs by rounding.
        """
        embeddings: Sequence[Tensor | None] = [None] * len(batch)
        if features.sam is not None and (features.sam_alone or (not exact and _have_one_size(batch))):
            embeddings = torch.split(features.sam, 1)
        with record_function("SAM masks"):
            return [self._image_masks(*image) for image in zip(batch, embeddings, strict=True)]

    def _image_masks(self, sample: Sample, embedding: Tensor | None) -> Proposals | None:
        """Masks of one image, given SAM's reusable embedding of it or None."""
        if "sam_masks" in sample:
            logits = sample["sam_masks"].to(self.device)
            size = (logits.shape[1], logits.shape[2])
            return Proposals(logits, padded=size, unpadded=size)
        if self.mask_source is None:
            return None

        # Point prompts refer to the square input, which images that keep their aspect ratio were not resized to.
        is_square = embedding is not None and embedding.shape[-2] == embedding.shape[-1]

        def shared(encoder: SAMEncoder) -> Tensor | None:
            return embedding if encoder is self.sam and is_square else None

        return self.mask_source.masks(sample, shared=shared, device=self.device)

    def _embed(self, sam: SAMEncoder, parts: Sequence[Sequence[Sample]]) -> Tensor:
        """SAM's embeddings of the parts of a batch, concatenated."""
        optional = {"keep_aspect": True} if self.sam_keeps_aspect else {}  # a plug-in need not support it
        embeddings = []
        for part in parts:
            images = [sample["image"] for sample in part]
            prepared = sam_input(images, divisor=self.size_divisibility, device=self.device)
            embeddings.append(sam(prepared, **optional).float())  # the decoder may run without autocast
        return torch.cat(embeddings)


def _have_one_size(batch: Sequence[Sample]) -> bool:
    return len({sample["image"].shape for sample in batch}) == 1


def sam_input(images: Sequence[Tensor], *, divisor: int, device: torch.device) -> Tensor:
    """Normalizes images for SAM and zero-pads them to a common size.

    Args:
        images: B images (3, H, W), RGB, 0..255.
        divisor: the common height and width are multiples of this.
    Returns:
        (B, 3, H, W) float32.
    """
    mean, std = (
        device_constant(values, dtype=torch.float32, device=device)
        for values in (SAM_PIXEL_MEAN, SAM_PIXEL_STD)
    )
    return normalize_and_pad(list(images), mean=mean, std=std, divisor=divisor)[0]


def run_on_side_stream(work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Runs work on a second CUDA stream, concurrently with the caller's; on other devices at once.

    Args:
        work: may read tensors that the caller's stream has computed or will compute by queued kernels.
        device: device of the work.
    Returns:
        A function that makes the caller's stream wait and returns the result.
    """
    if device.type != "cuda":
        result = work()
        return lambda: result
    stream = _side_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        side_result = work()

    def wait() -> Tensor:
        caller = torch.cuda.current_stream(device)
        caller.wait_stream(stream)
        # Else the allocator might reuse its memory while the caller reads it.
        side_result.record_stream(caller)
        return side_result

    return wait


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One stream per device: the allocator reuses freed memory only on the same stream."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream
