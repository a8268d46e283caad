# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Every configuration key with its default: the full-size published model, trained on COCO panoptic.

Names are those of Detectron2, Mask2Former and FC-CLIP; what only CMPF has stands under MODEL.CMPF and
TEST.ENSEMBLE. A default's type is the key's type; allowed values stand in cmpf/config/rules.py.
"""

from __future__ import annotations

from typing import Any

from fvcore.common.config import CfgNode


def default_config() -> CfgNode:
    """A fresh, unfrozen tree of all keys with their defaults."""
    return CfgNode(
        {
            "VERSION": 2,
            "OUTPUT_DIR": "./output",
            "SEED": 0,
            "NUM_THREADS": 0,  # CPU threads of torch; 0 = torch's own choice
            "MODEL": _model(),
            "INPUT": _input(),
            "DATASETS": {  # classes of the first training dataset are the "seen" ones
                "TRAIN": ("openvocab_coco_2017_train_panoptic_with_sem_seg",),
                "TEST": ("openvocab_coco_2017_val_panoptic_with_sem_seg",),
            },
            "DATALOADER": {"NUM_WORKERS": -1},  # processes that read images; -1 = by the number of cores
            "SOLVER": _solver(),
            "LOG": {
                "PERIOD": 20,  # iterations in one line of the log
                "TENSORBOARD": True,
                "PICTURES": 4,  # training images shown with predictions at each TEST.EVAL_PERIOD; 0 = none
                "WANDB_PROJECT": "",  # Weights & Biases; "" = off
            },
            "TEST": _test(),
        }
    )


def _model() -> dict[str, Any]:
    return {
        "META_ARCHITECTURE": "CMPF",
        "DEVICE": "auto",  # cuda where there is one, else cpu
        "WEIGHTS": "",  # checkpoint to start from; "" = none
        "PIXEL_MEAN": (122.7709383, 116.7460125, 104.09373615),  # CLIP's, RGB 0..255
        "PIXEL_STD": (68.5005327, 66.6321579, 70.32316305),
        "MASK_FORMER": _mask_former(),
        "SEM_SEG_HEAD": {
            "CONVS_DIM": 256,
            "MASK_DIM": 256,
            "NORM_GROUPS": 32,
            "TRANSFORMER_ENC_LAYERS": 6,
            "DIM_FEEDFORWARD": 1024,
            "DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS": 8,
            "DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS": 4,
        },
        "CMPF": {
            "CLIP": {"NAME": "convnext_large_d_320", "PRETRAINED": "laion2b_s29b_b131k_ft_soup"},
            "SAM": {"NAME": "vit_b", "CHECKPOINT": ""},  # NAME "" = no SAM, FC-CLIP's model
            "GEOMETRIC_ENSEMBLE_ALPHA": 0.4,
            "GEOMETRIC_ENSEMBLE_BETA": 0.8,
            "ENSEMBLE_ON_VALID_MASK": False,
            # LEVEL: at which of the three maps that the decoder's layers read in turn an injector acts,
            # 0, 1, 2 = strides 32, 16, 8.
            "QUERY_INJECTOR": {"ENABLED": True, "LEVEL": 2},
            "FEATURE_INJECTOR": {"ENABLED": True, "LEVEL": 0, "KEEP_POSITIONS": False},
            "SAM_BRANCH": {"LAYERS": 6, "FLAT_LEVELS": 0},
            "DEFORMABLE_ATTENTION": "auto",  # auto = Triton kernels on CUDA where they run, else PyTorch
            "PRECISION": "auto",  # of the frozen encoders: auto = bf16 on a GPU that has it, fp32 on a CPU
            "COMPILE": False,  # torch.compile for the frozen encoders
            "GRADIENT_CHECKPOINTING": False,  # pixel decoder: less memory in training, some more time
        },
    }


def _mask_former() -> dict[str, Any]:
    return {
        "NHEADS": 8,
        "DIM_FEEDFORWARD": 2048,
        # Mask2Former's convention: prediction heads, that is decoder layers + the head before the first.
        # 10 = 9 layers.
        "DEC_LAYERS": 10,
        "NUM_OBJECT_QUERIES": 250,
        "HIDDEN_DIM": 256,
        "DEEP_SUPERVISION": True,
        "NO_OBJECT_WEIGHT": 0.1,
        "CLASS_WEIGHT": 2.0,
        "MASK_WEIGHT": 5.0,
        "DICE_WEIGHT": 5.0,
        "TRAIN_NUM_POINTS": 12544,  # 112 * 112
        "OVERSAMPLE_RATIO": 3.0,
        "IMPORTANCE_SAMPLE_RATIO": 0.75,
        "SIZE_DIVISIBILITY": 32,
        "TEST": {
            "SEMANTIC_ON": True,
            "INSTANCE_ON": True,
            "PANOPTIC_ON": True,
            "OBJECT_MASK_THRESHOLD": 0.0,
            "OVERLAP_THRESHOLD": 0.8,
            # Taken as True whenever PANOPTIC_ON or INSTANCE_ON is, as in FC-CLIP.
            "SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": False,
            "SEMANTIC_OUTPUT": "labels",
            "CLIP_OBJECTNESS": 0.0,
            "MASK_RECALL": False,
        },
    }


def _input() -> dict[str, Any]:
    return {
        # Training on panoptic and instance data: large-scale jitter.
        "IMAGE_SIZE": 1024,  # training crop, square
        "MIN_SCALE": 0.1,
        "MAX_SCALE": 2.0,
        # Training on semantic data: Mask2Former's settings for ADE20K, with the crop rule of 75 %.
        "MIN_SIZE_TRAIN": tuple(int(512 * 0.1 * step) for step in range(5, 21)),  # 256, 307, ... 1024
        "MIN_SIZE_TRAIN_SAMPLING": "choice",
        "MAX_SIZE_TRAIN": 2048,
        "CROP": {
            "ENABLED": True,
            "TYPE": "absolute",
            "SIZE": (512.0, 512.0),  # (H, W)
            "SINGLE_CATEGORY_MAX_AREA": 0.75,  # largest share of a crop that one class may have; 1 = any
        },
        "COLOR_AUG_SSD": True,
        "SIZE_DIVISIBILITY": 32,  # images are padded to the crop size, and to multiples of this
        # Training on all kinds.
        "RANDOM_FLIP": "horizontal",
        "MIN_SIZE_TEST": 0,  # shorter side; 0 = the dataset's own, 800 / 1333 where it has none
        "MAX_SIZE_TEST": 0,
    }


def _solver() -> dict[str, Any]:
    return {
        "IMS_PER_BATCH": 16,  # over all processes
        "BASE_LR": 1e-4,
        "WEIGHT_DECAY": 0.05,
        "WEIGHT_DECAY_NORM": 0.0,
        "WEIGHT_DECAY_EMBED": 0.0,
        "MAX_ITER": 368750,  # 118,287 images / 16 * 50 epochs = 369,647; published 368,750
        "LR_SCHEDULER_NAME": "WarmupMultiStepLR",
        "STEPS": (327778, 355092),
        "GAMMA": 0.1,
        "WARMUP_ITERS": 10,
        "WARMUP_FACTOR": 1.0,
        "CLIP_GRADIENTS": {"ENABLED": True, "CLIP_VALUE": 0.01},  # L2 norm of all gradients together
        # DTYPE auto = bf16 on a GPU that has it, fp16 on another one, float32 on a CPU.
        "AMP": {"ENABLED": True, "DTYPE": "auto"},
        "ACCUMULATION_STEPS": 1,  # parts that a process cuts its share of a batch into, to save memory
        "REFERENCE_BATCH_SIZE": 0,  # BASE_LR is meant for this batch and scaled linearly to another one; 0 = not
        "EMA": {
            "ENABLED": False,
            "DECAY": 0.999,
        },  # average of the weights, evaluated and saved as the final ones
        "CHECKPOINT_PERIOD": 5000,
        "CHECKPOINTS_KEPT": 3,
    }


def _test() -> dict[str, Any]:
    return {
        "EVAL_PERIOD": 5000,  # 0 = at the end only
        "BEST_METRIC": "panoptic/PQ",  # task/metric that chooses the best checkpoint; "" = keep none
        "IMS_PER_BATCH": 1,  # images in one pass of an evaluation, in each process
        "DETECTIONS_PER_IMAGE": 100,
        "ENSEMBLE": {
            "ENABLED": False,
            "ALPHA": 0.2,
            "SCORE_THRESHOLD": 0.5,
            "MAX_MASKS": 50,
            "SAM_NAME": "vit_h",
            "SAM_CHECKPOINT": "",
            "SOURCE": "online",  # "cache" = read the masks that tools/save_sam_masks.py wrote to CACHE_DIR
            "CACHE_DIR": "",
            "PUBLISHED_POOLING": False,
            "POINTS_PER_SIDE": 32,
            "PRED_IOU_THRESH": 0.8,
            "STABILITY_THRESH": 0.7,
            "NMS_THRESH": 0.7,
            "MIN_AREA": 100,
        },
    }
