# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The published model as a LazyConfig of Detectron2: every part by its constructor, with the values of its training.

    tools/lazyconfig_train_net.py --config-file configs/lazy/cmpf_convnext_large.py   # in Detectron2's checkout

A test compares it with configs/coco/Base-COCO-PanopticSegmentation.yaml.
"""

from detectron2.config import LazyCall as L
from detectron2.evaluation import COCOPanopticEvaluator
from detectron2.solver import WarmupParamScheduler
from fvcore.common.param_scheduler import MultiStepParamScheduler

from cmpf.config import get_cfg
from cmpf.data import get_vocabulary
from cmpf.detectron2 import CMPF
from cmpf.detectron2.lazy import adamw, parameter_groups, test_loader
from cmpf.encoders.clip_factory import build_clip
from cmpf.encoders.pair import FrozenEncoders
from cmpf.encoders.sam import build_sam
from cmpf.factory.training import build_train_loader
from cmpf.inference import InferenceSettings
from cmpf.losses import HungarianMatcher, SetCriterion
from cmpf.modeling.injectors import FeatureInjector, QueryInjector
from cmpf.modeling.pixel_decoder import PixelDecoder
from cmpf.modeling.sam_branch import SAMBranch
from cmpf.modeling.transformer_decoder import TransformerDecoder

DATA = "coco/Base-COCO-PanopticSegmentation.yaml"
TRAIN, TEST = (
    "openvocab_coco_2017_train_panoptic_with_sem_seg",
    "openvocab_coco_2017_val_panoptic_with_sem_seg",
)
MAX_ITER = 368750  # 118,287 images / 16 * 50 epochs = 369,647, published 368,750
WEIGHTS = {"class_weight": 2.0, "mask_weight": 5.0, "dice_weight": 5.0}

model = L(CMPF)(
    encoders=L(FrozenEncoders)(
        clip=L(build_clip)(name="convnext_large_d_320", pretrained="laion2b_s29b_b131k_ft_soup"),
        sam=L(build_sam)(name="vit_b", checkpoint=""),
        mask_source=None,
        pixel_mean=[122.7709383, 116.7460125, 104.09373615],
        pixel_std=[68.5005327, 66.6321579, 70.32316305],
        size_divisibility=32,
    ),
    pixel_decoder=L(PixelDecoder)(
        in_channels={"res2": 192, "res3": 384, "res4": 768, "res5": 1536},  # of ConvNeXt-L
        dim=256,
        mask_dim=256,
        heads=8,
        points=4,
        layers=6,
        dim_feedforward=1024,
        norm_groups=32,
    ),
    sam_branch=L(SAMBranch)(
        in_channels=256,  # of SAM's embedding
        dim=256,
        heads=8,
        points=4,
        layers=6,
        dim_feedforward=1024,
        norm_groups=32,
        flat_levels=0,
    ),
    decoder=L(TransformerDecoder)(
        in_channels=256,
        dim=256,
        mask_dim=256,
        embed_dim=768,  # of CLIP's joint space
        queries=250,
        heads=8,
        layers=9,
        dim_feedforward=2048,
        sam_channels=256,
        sam_feature_channels=256,
        query_injector=QueryInjector,
        query_injector_level=2,
        feature_injector=FeatureInjector,
        feature_injector_level=0,
        keep_positions=False,
    ),
    criterion=L(SetCriterion)(
        num_classes=133,
        matcher=L(HungarianMatcher)(**WEIGHTS, num_points=12544),
        **WEIGHTS,
        no_object_weight=0.1,
        num_points=12544,
        oversample_ratio=3.0,
        importance_sample_ratio=0.75,
        deep_supervision=True,
    ),
    train_vocabulary=L(get_vocabulary)(name=TRAIN),
    settings=L(InferenceSettings)(
        alpha=0.4,
        beta=0.8,
        ensemble_on_valid_mask=False,
        clip_objectness=0.0,
        semantic=True,
        panoptic=True,
        instance=True,
        semantic_output="scores",  # as Detectron2's evaluators take them
        object_mask_threshold=0.0,
        overlap_threshold=0.8,
        resize_before=False,
        detections_per_image=100,
        mask_ensemble=None,
        proposals=False,
    ),
    text_cache=None,
)
dataloader = {
    "train": L(build_train_loader)(cfg=L(get_cfg)(path=DATA)),
    "test": L(test_loader)(cfg=L(get_cfg)(path=DATA), name=TEST),
    "evaluator": L(COCOPanopticEvaluator)(dataset_name=TEST, output_dir="output/lazy"),
}
optimizer = L(adamw)(
    params=L(parameter_groups)(lr=1e-4, weight_decay=0.05, weight_decay_norm=0.0, weight_decay_embed=0.0),
    lr=1e-4,
    clip_norm=0.01,
)
lr_multiplier = L(WarmupParamScheduler)(
    scheduler=L(MultiStepParamScheduler)(
        values=[1.0, 0.1, 0.01], milestones=[327778, 355092], num_updates=MAX_ITER
    ),
    warmup_length=10 / MAX_ITER,
    warmup_factor=1.0,
)
train = {
    "output_dir": "output/lazy",
    "init_checkpoint": "",
    "max_iter": MAX_ITER,
    "amp": {"enabled": True},
    "ddp": {"broadcast_buffers": False, "find_unused_parameters": False, "fp16_compression": False},
    "checkpointer": {"period": 5000, "max_to_keep": 3},
    "eval_period": 5000,
    "log_period": 20,
    "device": "cuda",
}
