# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Builds the frozen encoders (CLIP, SAM, SAM's masks); chooses device, precision and number of loader workers."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch
from torch import nn

from cmpf.common import distributed
from cmpf.common.cpu import usable_cores
from cmpf.common.tensors import find_device
from cmpf.config import Config
from cmpf.encoders.clip import CLIP
from cmpf.encoders.clip_factory import build_clip
from cmpf.encoders.frozen import FrozenModule
from cmpf.encoders.int8 import int8_works
from cmpf.encoders.pair import FrozenEncoders, MaskSource
from cmpf.encoders.sam import SAMEncoder, build_sam
from cmpf.encoders.sam_proposals import SAMProposer
from cmpf.errors import ConfigError
from cmpf.factory.parts import part
from cmpf.inference.mask_proposals import CachedMasks, OnlineMasks

if TYPE_CHECKING:
    from cmpf.inference.proposal_cache import ProposalCache


# Each worker loads about 50 training images per second (docs/performance.md); 8 load more than a GPU trains on.
MAX_WORKERS = 8
DEFAULT_MASK_SAM = "vit_b"  # makes the masks of a model that has no SAM
logger = logging.getLogger(__name__)

# The reduced precisions, and their names in messages and results.
PRECISION_NAMES = {torch.bfloat16: "bfloat16", torch.int8: "int8"}
# Largest allowed difference of such features from float32's, relative to their largest magnitude. It is 1 % for
# ConvNeXt-Large and ViT-B in bfloat16, which rounds the outputs of some dozen layers to 8 bits.
MAX_DIFFERENCE = 0.03
# Keys of TEST.ENSEMBLE that SAM's masks depend on, besides SAM itself.
PROPOSAL_KEYS = (
    "POINTS_PER_SIDE",
    "COARSE_POINTS_PER_SIDE",
    "PRED_IOU_THRESH",
    "STABILITY_THRESH",
    "NMS_THRESH",
    "MIN_AREA",
    "MAX_MASKS",
)


def check_device(cfg: Config) -> None:
    """Checks that the device of MODEL.DEVICE exists.

    Raises:
        ConfigError: PyTorch does not see it.
    """
    device = find_device(cfg.MODEL.DEVICE)
    if device.type == "cpu":
        return
    backend = torch.backends.mps if device.type == "mps" else getattr(torch, device.type)
    if not backend.is_available():
        raise ConfigError(
            f"MODEL.DEVICE {device}: PyTorch {torch.__version__} sees no {device.type} device here; use auto or cpu"
        )
    if device.index is not None and device.index >= backend.device_count():
        raise ConfigError(
            f"MODEL.DEVICE {device}: there are {backend.device_count()} here, {device.type}:0 is the first"
        )


def build_encoders(cfg: Config) -> FrozenEncoders:
    """CLIP, SAM if MODEL.CMPF.SAM.NAME is not empty, and a source of SAM's masks if something uses them."""
    sam = build_sam_encoder(cfg)
    own = cfg.MODEL.CMPF.CLIP
    clip = build_clip_encoder(cfg)
    clip.tuned = own.TRAINED == "trunk"
    # A model with a Mask-Adapter trains only the adapter.
    if clip.tuned and cfg.MODEL.CMPF.MASK_EMBEDDING != "mask_adapter":
        clip.train_trunk(logit_scale=own.TRAIN_LOGIT_SCALE)
    return FrozenEncoders(
        clip=clip,
        sam=sam,
        mask_source=build_mask_source(cfg, sam),
        sam_keeps_aspect=cfg.MODEL.CMPF.SAM.KEEP_ASPECT,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        size_divisibility=cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
    )


def build_clip_encoder(cfg: Config) -> CLIP:
    """The frozen CLIP of a configuration, with its pretrained weights."""
    own = cfg.MODEL.CMPF.CLIP
    make = part("clip", own.NAME, cfg, like=build_clip, fallback=build_clip)
    clip = make(name=own.NAME, pretrained=own.PRETRAINED)
    _set_speed(cfg, clip)
    return clip


def build_sam_encoder(cfg: Config) -> SAMEncoder | None:
    """The frozen SAM whose embedding the injectors use; None if MODEL.CMPF.SAM.NAME is empty."""
    own = cfg.MODEL.CMPF.SAM
    return _build_sam(cfg, own.NAME, own.CHECKPOINT) if own.NAME else None


def build_precision(cfg: Config) -> torch.dtype | None:
    """The compute dtype of the frozen encoders (MODEL.CMPF.PRECISION); None = that of the rest of the network.

    "auto" is float32 on a CPU, so that results match the published arithmetic on every machine.

    Raises:
        ConfigError: bf16 on a GPU without bfloat16; int8 on another device than a CPU with VNNI instructions.
    """
    wanted, device = cfg.MODEL.CMPF.PRECISION, find_device(cfg.MODEL.DEVICE)
    if wanted == "fp32":
        return torch.float32
    if wanted == "int8":
        _check_int8(device)
        return torch.int8
    has_bf16 = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if wanted == "bf16" and not has_bf16:
        name = torch.cuda.get_device_name(device)
        raise ConfigError(f"MODEL.CMPF.PRECISION bf16: {name} has no bfloat16; use auto or fp32")
    use_bf16 = wanted == "bf16" or (device.type == "cuda" and has_bf16)
    return torch.bfloat16 if use_bf16 else None


def precision_name(cfg: Config) -> str:
    """The name of build_precision's dtype: "float32", "bfloat16" or "int8"."""
    return PRECISION_NAMES.get(build_precision(cfg) or torch.float32, "float32")


def _check_int8(device: torch.device) -> None:
    if device.type != "cpu":
        raise ConfigError(
            f"MODEL.CMPF.PRECISION int8: only CPUs support it, not {device}; use auto, bf16 or fp32"
        )
    if not int8_works():
        raise ConfigError(
            "MODEL.CMPF.PRECISION int8: this processor has no instructions that sum int8 products exactly "
            "(AVX512-VNNI, AVX-VNNI or AMX); use auto or fp32"
        )


def check_precision(cfg: Config, model: nn.Module) -> None:
    """Resets encoders on a CPU to float32 if bfloat16 or int8 changes their features too much (MAX_DIFFERENCE).

    Compares the features of a small image; encoders on the meta device are left as they are.
    """
    if find_device(cfg.MODEL.DEVICE).type != "cpu":
        return
    for encoder in model.modules():
        if not isinstance(encoder, CLIP | SAMEncoder) or next(encoder.parameters()).is_meta:
            continue
        if (dtype := encoder.compute_dtype) not in PRECISION_NAMES:
            continue
        name, difference = PRECISION_NAMES[dtype], encoder.difference_in(dtype)
        if difference <= MAX_DIFFERENCE:
            logger.info(
                "%s: %s; features differ by %.2g %% from float32's", encoder.name, name, 100 * difference
            )
        else:
            encoder.set_compute_dtype(None)
            logger.warning(
                "%s: float32, because features in %s differ by %.2g %% of the largest value; at most %.2g %% "
                "is allowed",
                encoder.name, name, 100 * difference, 100 * MAX_DIFFERENCE,
            )  # fmt: skip


def mask_sam(cfg: Config) -> tuple[str, str]:
    """Name and checkpoint of the SAM that generates masks: that of TEST.ENSEMBLE, else that of MODEL.CMPF.SAM."""
    own, ensemble = cfg.MODEL.CMPF.SAM, cfg.TEST.ENSEMBLE
    name = ensemble.SAM_NAME or own.NAME or DEFAULT_MASK_SAM
    return name, ensemble.SAM_CHECKPOINT or (own.CHECKPOINT if name == own.NAME else "")


def build_mask_source(cfg: Config, sam: SAMEncoder | None) -> MaskSource | None:
    """SAM's automatic masks, generated online or read from TEST.ENSEMBLE.CACHE_DIR; None if nothing uses them.

    Args:
        sam: the SAM of the injectors; None = the model has none.
    """
    ensemble = cfg.TEST.ENSEMBLE
    if not ensemble.ENABLED and not cfg.MODEL.CMPF.PROPOSAL_QUERIES.ENABLED:
        return None
    if ensemble.SOURCE == "online":
        return build_online_masks(cfg, sam)
    weights_hash = sam.weights_hash if sam is not None and _is_mask_sam(cfg) else None
    return CachedMasks(build_proposal_cache(cfg, ensemble.CACHE_DIR, sam_hash=weights_hash))


def build_online_masks(cfg: Config, sam: SAMEncoder | None) -> OnlineMasks:
    """Generates SAM's automatic masks; shares the injectors' SAM if its name and checkpoint are the same."""
    ensemble = cfg.TEST.ENSEMBLE
    if sam is None or not _is_mask_sam(cfg):
        sam = _build_sam(cfg, *mask_sam(cfg))
    proposer = SAMProposer(
        encoder=sam,
        points_per_side=ensemble.POINTS_PER_SIDE,
        coarse_points_per_side=ensemble.COARSE_POINTS_PER_SIDE,
        iou_threshold=ensemble.PRED_IOU_THRESH,
        stability_threshold=ensemble.STABILITY_THRESH,
        nms_threshold=ensemble.NMS_THRESH,
        min_area=ensemble.MIN_AREA,
        max_masks=ensemble.MAX_MASKS,
    )
    return OnlineMasks(proposer=proposer, size_divisibility=cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY)


def build_proposal_cache(cfg: Config, folder: str, *, sam_hash: str | None) -> ProposalCache:
    """A folder of SAM's masks, with the settings that they must have been generated with.

    Args:
        folder: the cache's folder.
        sam_hash: content hash of the mask SAM's weights; None = unknown, because this SAM is not loaded.
    """
    from cmpf.inference.proposal_cache import ProposalCache

    settings = {f"TEST.ENSEMBLE.{key}": getattr(cfg.TEST.ENSEMBLE, key) for key in PROPOSAL_KEYS}
    settings["TEST.ENSEMBLE.SAM_NAME"] = mask_sam(cfg)[0]
    settings["MODEL.MASK_FORMER.SIZE_DIVISIBILITY"] = cfg.MODEL.MASK_FORMER.SIZE_DIVISIBILITY
    settings["SAM weights"] = sam_hash
    datasets = " ".join(cfg.DATASETS.TEST)
    return ProposalCache(
        folder=folder,
        settings=settings,
        command="cmpf save-sam-masks --config-file FILE (this run's config) "
        f"--dataset {datasets} --output {folder}",
    )


def _build_sam(cfg: Config, name: str, checkpoint: str) -> SAMEncoder:
    make = part("sam", name, cfg, like=build_sam, fallback=build_sam)
    sam = make(name=name, checkpoint=checkpoint)
    _set_speed(cfg, sam)
    return sam


def _set_speed(cfg: Config, encoder: FrozenModule) -> None:
    """What changes how fast a frozen encoder runs: its precision, and whether it is compiled."""
    encoder.set_compute_dtype(build_precision(cfg))
    if cfg.MODEL.CMPF.COMPILE:
        encoder.compile()


def _is_mask_sam(cfg: Config) -> bool:
    """Whether the injectors' SAM also generates the masks, with the same weights."""
    own = cfg.MODEL.CMPF.SAM
    return mask_sam(cfg) == (own.NAME, own.CHECKPOINT)


def loader_workers(cfg: Config) -> int:
    """Number of worker processes of a data loader: DATALOADER.NUM_WORKERS, or chosen automatically for -1.

    On a GPU, all but one of this process's share of the cores, at most 8. On a CPU, where the network needs the cores,
    one worker, or none if there is a single core.
    """
    if cfg.DATALOADER.NUM_WORKERS >= 0:
        return cfg.DATALOADER.NUM_WORKERS
    spare_cores = usable_cores() // distributed.local_world_size() - 1
    limit = MAX_WORKERS if find_device(cfg.MODEL.DEVICE).type == "cuda" else 1
    return min(limit, max(0, spare_cores))
