# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Wires the network: decoder, losses and inference settings from a configuration, and the frozen half."""

from __future__ import annotations

import logging

import torch

from cmpf import weights
from cmpf.config import Config
from cmpf.data import Vocabulary, get_vocabulary
from cmpf.encoders.clip import CLIP
from cmpf.encoders.sam import SAMEncoder
from cmpf.encoders.text import TextCache
from cmpf.factory.encoders import build_device, build_encoders
from cmpf.inference import InferenceSettings, MaskEnsembleSettings
from cmpf.losses import HungarianMatcher, SetCriterion
from cmpf.model import CMPF
from cmpf.modeling.deformable.module import choose_deformable_attention
from cmpf.modeling.deformable.ops import AttentionFunction, deformable_attention
from cmpf.modeling.pixel_decoder import PixelDecoder
from cmpf.modeling.sam_branch import SAMBranch
from cmpf.modeling.transformer_decoder import TransformerDecoder
from cmpf.weights.files import cache_folder

logger = logging.getLogger(__name__)


def use_threads(cfg: Config | None) -> None:
    """Gives torch NUM_THREADS threads, 0 = its own choice. Programs call this; a library call leaves that alone."""
    if cfg is not None and cfg.NUM_THREADS:
        torch.set_num_threads(cfg.NUM_THREADS)


def build_model(cfg: Config) -> CMPF:
    """The whole network on its device, in training mode, with the weights that the configuration names.

    Raises:
        ModelNameError, WeightsError: an encoder's name or file is wrong. ConfigError: values do not fit together.
    """
    model = build_network(cfg).to(build_device(cfg))
    if cfg.MODEL.WEIGHTS:
        logger.info("weights of %s: %s", cfg.MODEL.WEIGHTS, weights.load(model, cfg.MODEL.WEIGHTS))
    return model


def build_network(cfg: Config, train_vocabulary: Vocabulary | None = None) -> CMPF:
    """The network where torch's default device is, with the weights of its encoders but none of MODEL.WEIGHTS.

    Args:
        train_vocabulary: classes of the training labels; None = those of DATASETS.TRAIN.
    """
    train_vocabulary = train_vocabulary or build_train_vocabulary(cfg)
    encoders = build_encoders(cfg)
    attention = choose_deformable_attention(cfg.MODEL.CMPF.DEFORMABLE_ATTENTION, build_device(cfg))
    return CMPF(
        encoders=encoders,
        pixel_decoder=build_pixel_decoder(cfg, encoders.clip, attention),
        sam_branch=build_sam_branch(cfg, encoders.sam, attention),
        decoder=build_decoder(cfg, encoders.clip, encoders.sam),
        criterion=build_criterion(cfg, train_vocabulary.num_classes),
        train_vocabulary=train_vocabulary,
        settings=build_settings(cfg),
        text_cache=TextCache(cache_folder() / "text"),
    )


def build_train_vocabulary(cfg: Config) -> Vocabulary:
    """Classes of the (first) training dataset; needs no dataset on disk."""
    return get_vocabulary(cfg.DATASETS.TRAIN[0])


def build_pixel_decoder(
    cfg: Config, clip: CLIP, attention: AttentionFunction = deformable_attention
) -> PixelDecoder:
    """Pixel decoder over CLIP's levels (paper, Sec. 3.1)."""
    head = cfg.MODEL.SEM_SEG_HEAD
    return PixelDecoder(
        in_channels=clip.channels,
        dim=head.CONVS_DIM,
        mask_dim=head.MASK_DIM,
        heads=head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
        points=head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
        layers=head.TRANSFORMER_ENC_LAYERS,
        ffn_dim=head.DIM_FEEDFORWARD,
        norm_groups=head.NORM_GROUPS,
        attention_function=attention,
        recompute=cfg.MODEL.CMPF.GRADIENT_CHECKPOINTING,
    )


def build_sam_branch(
    cfg: Config, sam: SAMEncoder | None, attention: AttentionFunction = deformable_attention
) -> SAMBranch | None:
    """SAM branch of the pixel decoder; None without a Feature Injector, which alone reads it."""
    if sam is None or not cfg.MODEL.CMPF.FEATURE_INJECTOR.ENABLED:
        return None
    head = cfg.MODEL.SEM_SEG_HEAD
    return SAMBranch(
        in_channels=sam.embed_channels,
        dim=head.CONVS_DIM,
        heads=head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
        points=head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
        layers=cfg.MODEL.CMPF.SAM_BRANCH.LAYERS,
        ffn_dim=head.DIM_FEEDFORWARD,
        norm_groups=head.NORM_GROUPS,
        attention_function=attention,
        flat_levels=cfg.MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS,
    )


def build_decoder(cfg: Config, clip: CLIP, sam: SAMEncoder | None) -> TransformerDecoder:
    """Transformer decoder with both injectors as configured (paper, Sec. 3.2 and 3.3)."""
    former = cfg.MODEL.MASK_FORMER
    return TransformerDecoder(
        in_channels=cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM,
        dim=former.HIDDEN_DIM,
        mask_dim=cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
        embed_dim=clip.embed_dim,
        queries=former.NUM_OBJECT_QUERIES,
        heads=former.NHEADS,
        layers=former.DEC_LAYERS - 1,
        ffn_dim=former.DIM_FEEDFORWARD,
        sam_channels=sam.embed_channels if sam else 0,
        sam_feature_channels=cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM,
        query_injector=cfg.MODEL.CMPF.QUERY_INJECTOR.ENABLED,
        query_injector_level=cfg.MODEL.CMPF.QUERY_INJECTOR.LEVEL,
        feature_injector=cfg.MODEL.CMPF.FEATURE_INJECTOR.ENABLED,
        feature_injector_level=cfg.MODEL.CMPF.FEATURE_INJECTOR.LEVEL,
        keep_positions=cfg.MODEL.CMPF.FEATURE_INJECTOR.KEEP_POSITIONS,
    )


def build_criterion(cfg: Config, num_classes: int) -> SetCriterion:
    """Matcher and losses; see SetCriterion for the form of outputs and targets."""
    former = cfg.MODEL.MASK_FORMER
    matcher = HungarianMatcher(
        class_weight=former.CLASS_WEIGHT,
        mask_weight=former.MASK_WEIGHT,
        dice_weight=former.DICE_WEIGHT,
        num_points=former.TRAIN_NUM_POINTS,
    )
    return SetCriterion(
        num_classes=num_classes,
        matcher=matcher,
        class_weight=former.CLASS_WEIGHT,
        mask_weight=former.MASK_WEIGHT,
        dice_weight=former.DICE_WEIGHT,
        void_weight=former.NO_OBJECT_WEIGHT,
        num_points=former.TRAIN_NUM_POINTS,
        oversample_ratio=former.OVERSAMPLE_RATIO,
        importance_ratio=former.IMPORTANCE_SAMPLE_RATIO,
        deep_supervision=former.DEEP_SUPERVISION,
    )


def build_mask_ensemble(cfg: Config) -> MaskEnsembleSettings:
    """What an OpenSeg Ensemble means in this configuration, on or off."""
    ensemble = cfg.TEST.ENSEMBLE
    return MaskEnsembleSettings(
        epsilon=ensemble.ALPHA,
        score_threshold=ensemble.SCORE_THRESHOLD,
        published_pooling=ensemble.PUBLISHED_POOLING,
    )


def build_settings(cfg: Config) -> InferenceSettings:
    """Inference settings of a configuration."""
    test = cfg.MODEL.MASK_FORMER.TEST
    return InferenceSettings(
        alpha=cfg.MODEL.CMPF.GEOMETRIC_ENSEMBLE_ALPHA,
        beta=cfg.MODEL.CMPF.GEOMETRIC_ENSEMBLE_BETA,
        ensemble_on_valid_mask=cfg.MODEL.CMPF.ENSEMBLE_ON_VALID_MASK,
        clip_objectness=test.CLIP_OBJECTNESS,
        semantic=test.SEMANTIC_ON,
        panoptic=test.PANOPTIC_ON,
        instance=test.INSTANCE_ON,
        semantic_output=test.SEMANTIC_OUTPUT,
        object_mask_threshold=test.OBJECT_MASK_THRESHOLD,
        overlap_threshold=test.OVERLAP_THRESHOLD,
        resize_before=test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        mask_ensemble=build_mask_ensemble(cfg) if cfg.TEST.ENSEMBLE.ENABLED else None,
        proposals=test.MASK_RECALL,
    )
