# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The frozen half of CMPF: CLIP and SAM over a batch, at the same time where a GPU can."""

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
    """Where SAM's automatic masks of an image come from."""

    def masks(self, sample: Sample, *, shared: SharedEmbedding, device: torch.device) -> Proposals:
        """The masks of one image, on a device.

        Args:
            sample: one image, `image` (3, H, W) RGB 0..255.
            shared: what a SAM made of this image alone, if it has already run, else None.
        """


class FrozenEncoders(nn.Module):
    """CLIP, SAM and SAM's mask proposals; nothing in here is trained or stored in checkpoints.

    Args:
        clip: frozen CLIP, image and text.
        sam: frozen SAM whose embedding the injectors read; None = neither injector is on.
        mask_source: SAM's automatic masks for the OpenSeg Ensemble; None = only masks that samples carry.
        sam_keeps_aspect: whether SAM sees images in their own aspect ratio, see SAMEncoder.
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
        """Where the encoders live."""
        return self.pixel_mean.device

    def hashes(self) -> dict[str, str]:
        """Name -> content hash of the encoders that trained weights belong to; not of a CLIP that they bring."""
        clip = None if self.clip.tuned else self.clip
        return {part.name: part.weights_hash for part in (clip, self.sam) if part is not None}

    def forward(
        self, batch: Sequence[Sample], *, with_sam: bool
    ) -> tuple[FrozenFeatures, tuple[int, int], list[tuple[int, int]]]:
        """Features of a batch.

        Args:
            batch: samples with `image` (3, H, W) RGB 0..255.
            with_sam: whether SAM's embedding is needed.
        Returns:
            Features; the padded size (H, W) of the batch; the B sizes without padding.
        """
        images, sizes = self.images(batch)
        padded = (images.shape[-2], images.shape[-1])
        return self.features(batch, images, with_sam=with_sam), padded, sizes

    def images(self, batch: Sequence[Sample]) -> tuple[Tensor, list[tuple[int, int]]]:
        """CLIP's input (B, 3, H, W), normalized and padded, and the B sizes without padding."""
        return normalize_and_pad(
            [sample["image"] for sample in batch],
            mean=self.pixel_mean,
            std=self.pixel_std,
            divisor=self.size_divisibility,
        )

    def features(self, batch: Sequence[Sample], images: Tensor, *, with_sam: bool) -> FrozenFeatures:
        """Features of a batch of which CLIP's input is made already."""
        if not with_sam or self.sam is None:
            return FrozenFeatures(clip=self.clip(images), sam=None)
        embedding = start_beside(partial(self._embed, self.sam, batch), self.device)
        return FrozenFeatures(clip=self.clip(images), sam=embedding())

    @torch.no_grad()
    def masks(
        self, batch: Sequence[Sample], features: FrozenFeatures, *, exact: bool = True
    ) -> list[Proposals | None]:
        """SAM's masks of each image: its own `sam_masks`, else the source's; None = no source.

        SAM runs only where neither the sample nor a cache has masks; then not again if it has already seen this
        image alone, squashed to its square, for the injectors.

        Args:
            batch: samples. features: what `features` made of them.
            exact: the masks of an image are the same whatever else is in its batch; False = where all images have one
                size, they are made of the features of the batch, which are rounded otherwise, and SAM runs once.
        """
        embeddings: Sequence[Tensor | None] = [None] * len(batch)
        one_size = len({sample["image"].shape for sample in batch}) == 1
        if features.sam is not None and (len(batch) == 1 or (one_size and not exact)):
            embeddings = [features.sam[place : place + 1] for place in range(len(batch))]
        with record_function("SAM masks"):
            return [self._masks(*image) for image in zip(batch, embeddings, strict=True)]

    def _masks(self, sample: Sample, embedding: Tensor | None) -> Proposals | None:
        """Those of one image. embedding: what the features' SAM made of it; None = it has to look again."""
        if "sam_masks" in sample:
            logits = sample["sam_masks"].to(self.device)
            size = (logits.shape[1], logits.shape[2])
            return Proposals(logits, padded=size, unpadded=size)
        if self.mask_source is None:
            return None

        # Prompts of masks are places in the square, to which not every image was squashed.
        square = embedding is not None and embedding.shape[-2] == embedding.shape[-1]

        def shared(encoder: SAMEncoder) -> Tensor | None:
            return embedding if encoder is self.sam and square else None

        return self.mask_source.masks(sample, shared=shared, device=self.device)

    def _embed(self, sam: SAMEncoder, batch: Sequence[Sample]) -> Tensor:
        images = [sample["image"] for sample in batch]
        prepared = sam_input(images, divisor=self.size_divisibility, device=self.device)
        more = {"keep_aspect": True} if self.sam_keeps_aspect else {}  # a plug-in may not know of it
        embedding: Tensor = sam(prepared, **more)
        return embedding.float()  # whatever SAM computes in: the decoder may run without autocast


def sam_input(images: Sequence[Tensor], *, divisor: int, device: torch.device) -> Tensor:
    """Images as SAM's encoder takes them: its own normalization, then zero padding to one common size.

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


def start_beside(work: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Starts work on a CUDA stream of its own while the caller goes on; on other devices it is done at once.

    Args:
        work: may read what the caller's stream has computed or been given to compute so far.
        device: where it runs.
    Returns:
        A function that gives the result, for use on the caller's stream.
    """
    if device.type != "cuda":
        result = work()
        return lambda: result
    stream = _side_stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        found = work()

    def joined() -> Tensor:
        caller = torch.cuda.current_stream(device)
        caller.wait_stream(stream)
        found.record_stream(caller)  # else its memory might be given away while the caller still reads it
        return found

    return joined


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for each device: memory that a stream has freed can only serve the same stream again."""
    stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    return stream
