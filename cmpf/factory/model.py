# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Builds the network and its inference settings from a configuration."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from cmpf import weights
from cmpf.common.tensors import find_device
from cmpf.config import Config
from cmpf.data import DatasetSpec, Vocabulary
from cmpf.data.datasets.constants import USUAL_SIZE
from cmpf.encoders.clip import CLIP
from cmpf.encoders.linear import use_inference_linear
from cmpf.encoders.sam import SAMEncoder
from cmpf.encoders.text import TextCache
from cmpf.errors import WeightsError
from cmpf.factory.encoders import build_encoders, check_device, check_precision
from cmpf.factory.losses import build_criterion, build_tuning
from cmpf.factory.parts import part
from cmpf.factory.provision import check_before_download, with_encoders_inside
from cmpf.factory.vocabularies import build_train_vocabulary
from cmpf.inference import InferenceSettings, MaskEnsembleSettings, geometric_ensemble, openseg_ensemble
from cmpf.inference.mask_naming import MaskNaming
from cmpf.model import CMPF
from cmpf.modeling.deformable.module import choose_deformable_attention
from cmpf.modeling.deformable.ops import AttentionFunction, deformable_attention
from cmpf.modeling.injectors import FeatureInjector, QueryInjector
from cmpf.modeling.pixel_decoder import PixelDecoder
from cmpf.modeling.sam_branch import SAMBranch
from cmpf.modeling.transformer_decoder import TransformerDecoder
from cmpf.registry import import_plugins, module_name, plugin_files
from cmpf.weights.download import cache_folder
from cmpf.weights.saving import PLUGINS_KEY

logger = logging.getLogger(__name__)


def use_threads(cfg: Config | None) -> None:
    """Sets torch's number of threads to NUM_THREADS; 0 = torch's choice. Only commands call this, never the library."""
    if cfg is not None and cfg.NUM_THREADS:
        torch.set_num_threads(cfg.NUM_THREADS)


def build_model(cfg: Config) -> CMPF:
    """Builds the model on MODEL.DEVICE, in training mode, and loads MODEL.WEIGHTS.

    Raises:
        ModelNameError: an encoder's name is unknown.
        WeightsError: a file of weights is missing, damaged or does not fit.
        ConfigError: values contradict each other, or the name of a part is unknown.
        PluginError: a plug-in is missing or fails.
    """
    check_device(cfg)
    saved = weights.read_metadata(cfg.MODEL.WEIGHTS).get(PLUGINS_KEY, {}) if cfg.MODEL.WEIGHTS else {}
    import_plugins(cfg.MODEL.CMPF.PLUGINS, saved=saved)
    cfg = with_encoders_inside(cfg)
    check_before_download(cfg, build=build_network)
    model = build_network(cfg).to(find_device(cfg.MODEL.DEVICE))
    if path := cfg.MODEL.WEIGHTS:
        report = load_weights(model, path, cfg, allow_unused=cfg.MODEL.ALLOW_UNUSED_WEIGHTS)
        logger.info("weights of %s: %s", path, report)
    check_precision(cfg, model)
    return model


def load_weights(
    model: CMPF, path: str | Path, cfg: Config, *, allow_unused: bool = False
) -> weights.LoadReport:
    """Like weights.load. If a plug-in of the training is not used, warns, or says so in the error."""
    used = {module_name(name) for name in cfg.MODEL.CMPF.PLUGINS}
    saved = weights.read_metadata(path).get(PLUGINS_KEY, {})
    absent = ", ".join(f"{name} ({file})" for name, file in saved.items() if name not in used)
    hint = (
        f"{path} was trained with the plug-in {absent}: name it by --plugin or MODEL.CMPF.PLUGINS, and select its "
        "parts as in training"
    )
    try:
        report = weights.load(model, path, allow_unused=allow_unused)
    except WeightsError as error:
        if not absent:
            raise
        raise WeightsError(f"{hint}. {error}") from error
    if absent:
        logger.warning("%s", hint)
    return report


def plugin_metadata(cfg: Config) -> dict[str, dict[str, str]]:
    """Metadata that records the plug-ins of a training in its weights; {} if there are none."""
    plugins = plugin_files(cfg.MODEL.CMPF.PLUGINS)
    return {PLUGINS_KEY: plugins} if plugins else {}


def build_network(cfg: Config, train_vocabulary: Vocabulary | None = None) -> CMPF:
    """Builds the network on torch's default device, with pretrained encoders but without MODEL.WEIGHTS.

    Args:
        cfg: the configuration.
        train_vocabulary: classes of the training labels; None = those of DATASETS.TRAIN.
    """
    import_plugins(cfg.MODEL.CMPF.PLUGINS)
    train_vocabulary = train_vocabulary or build_train_vocabulary(cfg)
    encoders = build_encoders(cfg)
    attention = choose_deformable_attention(
        cfg.MODEL.CMPF.DEFORMABLE_ATTENTION, find_device(cfg.MODEL.DEVICE)
    )
    model = CMPF(
        encoders=encoders,
        pixel_decoder=build_pixel_decoder(cfg, encoders.clip, attention),
        sam_branch=build_sam_branch(cfg, encoders.sam, attention),
        decoder=build_decoder(cfg, encoders.clip, encoders.sam),
        naming=build_naming(cfg, encoders.clip),
        criterion=build_criterion(cfg, train_vocabulary.num_classes),
        tuning=build_tuning(cfg),
        train_vocabulary=train_vocabulary,
        settings=build_settings(cfg),
        text_cache=TextCache(cache_folder() / "text"),
        class_ensemble=part(
            "class_ensemble", cfg.MODEL.CMPF.CLASS_ENSEMBLE_NAME, cfg, like=geometric_ensemble
        ),
        mask_ensemble=part("mask_ensemble", cfg.MODEL.CMPF.MASK_ENSEMBLE_NAME, cfg, like=openseg_ensemble),
        num_proposals=num_proposals(cfg),
    )
    use_inference_linear(model)  # for the trained part when it only predicts; the encoders already have them
    if model.naming.mask_adapter is not None:  # only the adapter is trained, on top of a trained model
        for module in (model.pixel_decoder, model.sam_branch, model.decoder, model.naming.text_transfer):
            if module is not None:
                module.requires_grad_(False)
    return model


def build_pixel_decoder(
    cfg: Config, clip: CLIP, attention: AttentionFunction = deformable_attention
) -> PixelDecoder:
    """Pixel decoder over CLIP's levels (paper, Sec. 3.1)."""
    head = cfg.MODEL.SEM_SEG_HEAD
    make = part("pixel_decoder", head.PIXEL_DECODER_NAME, cfg, like=PixelDecoder)
    return make(
        in_channels=clip.channels,
        dim=head.CONVS_DIM,
        mask_dim=head.MASK_DIM,
        heads=head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
        points=head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
        layers=head.TRANSFORMER_ENC_LAYERS,
        dim_feedforward=head.DIM_FEEDFORWARD,
        norm_groups=head.NORM_GROUPS,
        attention_function=attention,
        gradient_checkpointing=cfg.MODEL.CMPF.GRADIENT_CHECKPOINTING,
    )


def build_sam_branch(
    cfg: Config, sam: SAMEncoder | None, attention: AttentionFunction = deformable_attention
) -> SAMBranch | None:
    """SAM branch of the pixel decoder; None without a Feature Injector, the only part that uses it."""
    if sam is None or not cfg.MODEL.CMPF.FEATURE_INJECTOR.ENABLED:
        return None
    head = cfg.MODEL.SEM_SEG_HEAD
    return SAMBranch(
        in_channels=sam.embed_channels,
        dim=head.CONVS_DIM,
        heads=head.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS,
        points=head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS,
        layers=cfg.MODEL.CMPF.SAM_BRANCH.LAYERS,
        dim_feedforward=head.DIM_FEEDFORWARD,
        norm_groups=head.NORM_GROUPS,
        attention_function=attention,
        flat_levels=cfg.MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS,
    )


def build_decoder(cfg: Config, clip: CLIP, sam: SAMEncoder | None) -> TransformerDecoder:
    """Transformer decoder with both injectors as configured (paper, Sec. 3.2 and 3.3)."""
    former, head, ours = cfg.MODEL.MASK_FORMER, cfg.MODEL.SEM_SEG_HEAD, cfg.MODEL.CMPF
    make = part("transformer_decoder", head.TRANSFORMER_DECODER_NAME, cfg, like=TransformerDecoder)
    query, feature = ours.QUERY_INJECTOR, ours.FEATURE_INJECTOR
    return make(
        in_channels=head.CONVS_DIM,
        dim=former.HIDDEN_DIM,
        mask_dim=head.MASK_DIM,
        embed_dim=clip.embed_dim,
        queries=former.NUM_OBJECT_QUERIES,
        heads=former.NHEADS,
        layers=former.DEC_LAYERS - 1,
        dim_feedforward=former.DIM_FEEDFORWARD,
        sam_channels=sam.embed_channels if sam else 0,
        sam_feature_channels=head.CONVS_DIM,
        query_injector=part("query_injector", query.NAME, cfg, like=QueryInjector) if query.ENABLED else None,
        query_injector_level=query.LEVEL,
        feature_injector=part("feature_injector", feature.NAME, cfg, like=FeatureInjector)
        if feature.ENABLED
        else None,
        feature_injector_level=feature.LEVEL,
        keep_positions=feature.KEEP_POSITIONS,
        num_proposals=num_proposals(cfg),
    )


def num_proposals(cfg: Config) -> int:
    """Number of queries initialized from SAM's masks."""
    queries = cfg.MODEL.CMPF.PROPOSAL_QUERIES
    return queries.NUMBER if queries.ENABLED else 0


def build_naming(cfg: Config, clip: CLIP) -> MaskNaming:
    """How CLIP classifies masks: by mask pooling or a Mask-Adapter, with plain or image-conditioned text embeddings."""
    ours = cfg.MODEL.CMPF
    adapter = transfer = None
    if ours.MASK_EMBEDDING == "mask_adapter":
        from cmpf.modeling.mask_adapter import MaskAdapter

        own = ours.MASK_ADAPTER
        adapter = MaskAdapter(
            embed_dim=clip.embed_dim, dim=own.DIM, maps=own.MAPS, mask_threshold=own.MASK_THRESHOLD
        )
    if ours.TEXT_TRANSFER == "content_dependent":
        from cmpf.modeling.text_transfer import TextTransfer

        form = ours.CONTENT_TRANSFER
        transfer = TextTransfer(
            embed_dim=clip.embed_dim, heads=form.HEADS, post_norm=form.FORM == "post_norm"
        )
    layout = transfer is not None and ours.CONTENT_TRANSFER.PUBLISHED_LAYOUT
    return MaskNaming(mask_adapter=adapter, text_transfer=transfer, published_layout=layout)


def build_mask_ensemble(cfg: Config) -> MaskEnsembleSettings:
    """Settings of the OpenSeg Ensemble, whether or not TEST.ENSEMBLE.ENABLED is set."""
    ensemble = cfg.TEST.ENSEMBLE
    return MaskEnsembleSettings(
        tasks=frozenset(ensemble.TASKS),
        alpha=ensemble.ALPHA,
        score_threshold=ensemble.SCORE_THRESHOLD,
        decoder_share=ensemble.DECODER_SHARE,
        max_overlap=ensemble.MAX_OVERLAP,
        overlap_threshold=ensemble.PANOPTIC_OVERLAP_THRESHOLD,
        published_pooling=ensemble.PUBLISHED_POOLING,
    )


def build_settings(cfg: Config) -> InferenceSettings:
    """Inference settings of a configuration."""
    test, ours = cfg.MODEL.MASK_FORMER.TEST, cfg.MODEL.CMPF
    return InferenceSettings(
        # 1 = only CLIP's scores count.
        alpha=ours.GEOMETRIC_ENSEMBLE_ALPHA if ours.DECODER_CLASSES else 1.0,
        beta=ours.GEOMETRIC_ENSEMBLE_BETA if ours.DECODER_CLASSES else 1.0,
        ensemble_on_valid_mask=ours.ENSEMBLE_ON_VALID_MASK,
        clip_objectness=test.CLIP_OBJECTNESS,
        semantic=test.SEMANTIC_ON,
        panoptic=test.PANOPTIC_ON,
        instance=test.INSTANCE_ON,
        semantic_output=test.SEMANTIC_OUTPUT,
        object_mask_threshold=test.OBJECT_MASK_THRESHOLD,
        overlap_threshold=test.OVERLAP_THRESHOLD,
        resize_before=test.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE,
        detections_per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        instance_mask_score=test.INSTANCE_MASK_SCORE,
        min_island_share=cfg.TEST.MIN_ISLAND_SHARE,
        mask_ensemble=build_mask_ensemble(cfg) if cfg.TEST.ENSEMBLE.ENABLED else None,
        proposals=test.MASK_RECALL,
    )


def evaluation_size(cfg: Config, spec: DatasetSpec | None = None) -> tuple[int, int]:
    """Test size (shorter side, maximum of the longer side) in pixels: the configuration's, else the dataset's, else
    the default.

    Args:
        cfg: INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST; 0 = not set.
        spec: the dataset; None = images without a dataset.
    """
    if cfg.INPUT.MIN_SIZE_TEST:
        return cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    return (spec.test_size if spec else None) or USUAL_SIZE
