# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Cases of the whole model: inference on one image, and one training step."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.cases.training import fixed_points, fixed_random_points
from benchmarks.harness import Pair
from benchmarks.published.system import PublishedModel
from benchmarks.published.training import Draw, draw_uniform
from benchmarks.setting import Setting, blobs
from cmpf.config import get_cfg
from cmpf.factory import build_model
from cmpf.formats.image import read_image, resize_image
from cmpf.model import CMPF
from cmpf.types import Sample
from cmpf.weights.hub import find_model

IMAGE = Path(__file__).resolve().parents[2] / "demo" / "shapes.jpg"
FULL_CONFIG = "configs/coco/cmpf/convnext_large_eval_coco.yaml"
COMMON = (
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON", True,
    "MODEL.MASK_FORMER.TEST.INSTANCE_ON", True,
    "MODEL.MASK_FORMER.TEST.SEMANTIC_ON", True,
    "MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT", "labels",
    "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE", True,
    "MODEL.MASK_FORMER.TEST.MASK_RECALL", False,
    "MODEL.CMPF.ENSEMBLE_ON_VALID_MASK", False,
    "MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS", 0,
    "TEST.ENSEMBLE.ENABLED", False,
    "TEST.MIN_ISLAND_SHARE", 0.0,
)  # fmt: skip
RANDOM = ("MODEL.CMPF.CLIP.PRETRAINED", "", "MODEL.CMPF.SAM.CHECKPOINT", "random", "MODEL.WEIGHTS", "")


class RandomWords:
    """Replaces the cache of text embeddings with random ones, so that the text tower does not run."""

    def key(self, **_: object) -> str:
        return ""

    def load(self, key: str, *, shape: tuple[int, int]) -> Tensor:
        return F.normalize(torch.randn(shape, generator=torch.Generator().manual_seed(0)), dim=-1)


def inference(setting: Setting) -> Pair:
    """Semantic, panoptic and instance results of one image.

    Full: ConvNeXt-L and ViT-B with random weights on 800 x 1024 pixels; the decoder's outputs are compared, because
    random masks are so similar that rounding decides between them. Quick: the trained tiny model.
    """
    model = model_of(setting).eval()
    height, width = setting.pick((800, 1024), (256, 256))
    pixels = resize_image(read_image(IMAGE), (height, width))
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))).to(setting.device)
    batch: list[Sample] = [{"image": image, "height": height, "width": width}]
    plain = PublishedModel(model)
    words = model.train_vocabulary
    classes = model.class_embeddings(words)
    is_thing = torch.tensor(words.is_thing, device=setting.device)
    seen = torch.ones_like(is_thing)

    def ours() -> Any:
        with torch.no_grad():
            result = model.infer(batch)[0]
        return [result["sem_seg"], result["panoptic_seg"][0], result["instances"].scores]

    def published() -> Any:
        result = plain.infer(batch, classes, is_thing, seen)
        return [result["sem_seg"], result["panoptic"], result["scores"]]

    def decoder_outputs(decode: Callable[..., Any]) -> Any:
        with torch.no_grad():
            features, _, _ = model.encoders(batch, with_sam=model.uses_sam)
            outputs = decode(features, classes)
        return [outputs["pred_masks"], outputs["pred_logits"]]

    compare = setting.pick(
        (lambda: decoder_outputs(model.decode), lambda: decoder_outputs(plain._decode)), None
    )
    return Pair(
        ours=ours,
        published=published,
        compare=compare,
        tolerance=setting.pick(2e-2, 1e-2),
        share=1e-2,
    )


def training(setting: Setting) -> Pair:
    """One step of AdamW on one image of 1024 x 1024 (quick: 128 x 128) with 12 targets."""
    model = model_of(setting).train()
    batch = [training_image(setting)]
    plain = PublishedModel(model).train()
    classes = model.class_embeddings(model.train_vocabulary)

    def published_losses(draw: Draw = draw_uniform) -> dict[str, Tensor]:
        return plain.losses(batch, classes, draw=draw)

    def ours_fixed() -> dict[str, Tensor]:
        with fixed_random_points():
            return model.losses(batch)

    return Pair(
        ours=_step(model, lambda: model.losses(batch)),
        published=_step(plain, published_losses),
        compare=(ours_fixed, lambda: published_losses(fixed_points)),
        tolerance=2e-2,
    )


def training_image(setting: Setting, seed: int = 0) -> Sample:
    """A noise image of the published crop size, 1024 x 1024 (quick: 128 x 128), with 12 targets."""
    side = setting.pick(1024, 128)
    labels = torch.arange(12, device=setting.device)
    masks = blobs(setting, 12, (side, side), seed=seed) > 0
    return {"image": noise(setting, (side, side), seed), "targets": {"labels": labels, "masks": masks}}


def noise(setting: Setting, size: tuple[int, int], seed: int = 0) -> Tensor:
    """(3, H, W) uint8 noise with mean 128."""
    return (setting.random(3, *size, seed=seed) * 40 + 128).clamp(0, 255).to(torch.uint8)


def _step(model: torch.nn.Module, losses: Callable[[], dict[str, Tensor]]) -> Callable[[], None]:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6)

    def step() -> None:
        optimizer.zero_grad()
        torch.stack(list(losses().values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 0.01)
        optimizer.step()

    return step


@lru_cache(maxsize=1)
def model_of(setting: Setting, *overrides: object) -> CMPF:
    """The published model with random weights; quick: the trained tiny model.

    Args:
        setting: device and size.
        overrides: KEY, VALUE, ... with the highest precedence.
    """
    torch.manual_seed(0)
    own = ["MODEL.DEVICE", setting.device.type, "NUM_THREADS", torch.get_num_threads(), *overrides]
    if setting.quick:
        config, settings, weights = find_model("cmpf_tiny", need_weights=True)
        model = build_model(get_cfg(config, [*settings, *COMMON, "MODEL.WEIGHTS", str(weights), *own]))
    else:
        model = build_model(get_cfg(FULL_CONFIG, [*COMMON, *RANDOM, *own]))
    model.text_cache = RandomWords() if not setting.quick else None  # type: ignore[assignment]
    return model
