# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""All configuration keys with type, allowed values, default and a one-line description.

Keys have the names of Detectron2, Mask2Former and FC-CLIP; those that only CMPF has are in MODEL.CMPF and
TEST.ENSEMBLE. The defaults are those of the full-size published model, trained on COCO panoptic.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cmpf.config import values as v
from cmpf.config.model_schema import Model
from cmpf.config.sections import Section

# 0.5 to 2.0 times 512 pixels in steps of 0.1: 256, 307, ... 1024.
ADE20K_SIDES = tuple(int(512 * 0.1 * step) for step in range(5, 21))


class Crop(Section):
    """Random crops in training on semantic data."""

    ENABLED: v.Flag = Field(True, description="crop training images")
    TYPE: v.Choice[Literal["absolute", "absolute_range", "relative", "relative_range"]] = Field(
        "absolute",
        description="SIZE in pixels, as a range of pixels, as fractions of the image, or as minimum fractions",
    )
    SIZE: v.TwoPositive = Field((512.0, 512.0), description="(H, W), or (minimum, maximum) of a range")
    SINGLE_CATEGORY_MAX_AREA: v.Fraction = Field(
        0.75, description="largest fraction of a crop that one class may cover; 1 = no limit"
    )


class Input(Section):
    """Sizes and augmentations: large-scale jitter for panoptic and instance data, Mask2Former's for semantic data."""

    AUGMENTATIONS: v.Parts = Field(
        (),
        description="names in order of application; () = the default for the kind of data. See docs/plugins.md",
    )
    IMAGE_SIZE: v.Side = Field(
        1024, description="panoptic and instance data: side of the square training crop, in pixels"
    )
    MIN_SCALE: v.Positive = Field(0.1, description="panoptic and instance data: minimum scale of the jitter")
    MAX_SCALE: v.Positive = Field(2.0, description="panoptic and instance data: maximum scale of the jitter")
    SHARED_CROP_OFFSET: v.Flag = Field(
        False,
        description="panoptic and instance data: place the crop with one random number for both axes, as published",
    )
    MIN_SIZE_TRAIN: v.Sides = Field(
        ADE20K_SIDES, description="semantic data: shorter side of training images, in pixels"
    )
    MIN_SIZE_TRAIN_SAMPLING: v.Choice[Literal["choice", "range"]] = Field(
        "choice", description="semantic data: pick one of MIN_SIZE_TRAIN, or any side between its two values"
    )
    MAX_SIZE_TRAIN: v.Side = Field(
        2048, description="semantic data: maximum longer side of training images, in pixels"
    )
    CROP: Crop = Crop()
    COLOR_AUG_SSD: v.Flag = Field(True, description="semantic data: SSD's color augmentation")
    SIZE_DIVISIBILITY: v.Side = Field(
        32,
        description="semantic data: pad images to the crop size, and to multiples of this number of pixels",
    )
    RANDOM_FLIP: v.Choice[Literal["horizontal", "none"]] = Field(
        "horizontal", description="all data: random flips"
    )
    MIN_SIZE_TEST: v.SideOrZero = Field(
        0, description="shorter side of test images, in pixels; 0 = the dataset's, or 800 if it has none"
    )
    MAX_SIZE_TEST: v.SideOrZero = Field(
        0,
        description="maximum longer side of test images, in pixels; 0 = the dataset's, or 1333 if it has none",
    )


class Datasets(Section):
    """Names of registered datasets, or YAML files that describe custom ones."""

    TRAIN: v.SomeNames = Field(
        ("openvocab_coco_2017_train_panoptic_with_sem_seg",),
        description='the first one is used for training; its classes are the "seen" ones',
    )
    TEST: v.Names = Field(
        ("openvocab_coco_2017_val_panoptic_with_sem_seg",), description="evaluated one after the other"
    )
    SEEN: v.Choice[Literal["published", "words"]] = Field(
        "published",
        description="how seen classes are determined. words: a test class is seen if it shares a word with a training "
        "class; published: as in the papers for their datasets after training on COCO panoptic, otherwise by words",
    )
    VOCABULARIES: v.Vocabularies = Field(
        "own",
        description="class names: those of the papers (CMPF's for other datasets), CMPF's, or those of files",
    )


class Dataloader(Section):
    """Loading of images."""

    NUM_WORKERS: v.Workers = Field(-1, description="number of worker processes that load images")
    ON_ERROR: v.Choice[Literal["stop", "skip"]] = Field(
        "stop",
        description="when a training image cannot be read: save and stop, or use the next image, for at most 0.1 % of "
        "the images",
    )


class ClipGradients(Section):
    """Clipping of the L2 norm of all gradients together."""

    ENABLED: v.Flag = Field(True, description="clip gradients")
    CLIP_VALUE: v.Positive = Field(0.01, description="maximum norm")


class Amp(Section):
    """Mixed precision of the trained parts."""

    ENABLED: v.Flag = Field(True, description="train with mixed precision on a GPU")
    DTYPE: v.Choice[Literal["auto", "bf16", "fp16"]] = Field(
        "auto", description="auto = bf16 if the GPU supports it natively, else fp16"
    )


class Ema(Section):
    """Exponential moving average of the weights, which is evaluated and saved as the final weights."""

    ENABLED: v.Flag = Field(False, description="average the weights")
    DECAY: v.Decay = Field(0.999, description="weight of the previous average in each iteration")


class Solver(Section):
    """Optimizer, schedule and checkpoints."""

    IMS_PER_BATCH: v.SmallCount = Field(16, description="batch size over all processes")
    BASE_LR: v.Positive = Field(1e-4, description="learning rate after warmup")
    WEIGHT_DECAY: v.Weight = Field(0.05, description="AdamW's weight decay")
    WEIGHT_DECAY_NORM: v.Weight = Field(0.0, description="weight decay of normalization layers")
    WEIGHT_DECAY_EMBED: v.Weight = Field(
        0.0, description="weight decay of nn.Embedding: queries and level embeddings of the decoder"
    )
    # 118,287 images / 16 * 50 epochs = 369,647; published 368,750
    MAX_ITER: v.Count = Field(368750, description="number of iterations; the default is 50 epochs of COCO")
    LR_SCHEDULER_NAME: v.Choice[Literal["WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR"]] = Field(
        "WarmupMultiStepLR", description="learning rate schedule"
    )
    STEPS: v.Rising = Field(
        (327778, 355092), description="WarmupMultiStepLR: iterations at which the rate is multiplied by GAMMA"
    )
    GAMMA: v.Factor = Field(0.1, description="WarmupMultiStepLR: factor at each of STEPS")
    POLY_POWER: v.Positive = Field(0.9, description="WarmupPolyLR: exponent of the polynomial decay")
    WARMUP_ITERS: v.CountOrZero = Field(10, description="number of warmup iterations")
    WARMUP_FACTOR: v.Fraction = Field(1.0, description="factor of the learning rate at the first iteration")
    CLIP_GRADIENTS: ClipGradients = ClipGradients()
    AMP: Amp = Amp()
    ACCUMULATION_STEPS: v.SmallCount = Field(
        1, description="gradient accumulation: parts into which each process splits its batch, to save memory"
    )
    REFERENCE_BATCH_SIZE: v.CountOrZero = Field(
        0,
        description="batch size that BASE_LR is meant for; with another batch size it is scaled linearly. 0 = never",
    )
    EMA: Ema = Ema()
    CHECKPOINT_PERIOD: v.Count = Field(5000, description="iterations between checkpoints")
    CHECKPOINTS_KEPT: v.Count = Field(3, description="number of newest checkpoints to keep")


class Log(Section):
    """Logging of a training run."""

    PERIOD: v.Count = Field(20, description="iterations between lines in the log")
    TENSORBOARD: v.Flag = Field(True, description="write event files for TensorBoard")
    PICTURES: v.FewOrZero = Field(
        4, description="training images logged with predictions every TEST.EVAL_PERIOD; 0 = none"
    )
    WANDB_PROJECT: v.Text = Field("", description='project of Weights & Biases; "" = off')


class Ensemble(Section):
    """The OpenSeg Ensemble: SAM's masks vote on semantic results and are mask candidates for the other results."""

    ENABLED: v.Flag = Field(False, description="use the ensemble")
    TASKS: v.Tasks = Field(
        ("semantic",),
        description='tasks whose evaluation uses it; ("semantic",) = published. A Predictor uses it for all',
    )
    DECODER_SHARE: v.Fraction = Field(
        0.3,
        description="candidates: weight of the decoder's class scores if one of its masks covers the candidate",
    )
    MAX_OVERLAP: v.Fraction = Field(
        0.5,
        description="candidates: IoU above which only the better of two masks of a class is kept; 1 = keep both",
    )
    PANOPTIC_OVERLAP_THRESHOLD: v.Fraction = Field(
        0.5, description="replaces MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD if candidates are used"
    )
    ALPHA: v.Fraction = Field(0.2, description="weight of SAM's votes in the scores of unseen classes")
    SCORE_THRESHOLD: v.Fraction = Field(
        0.5, description="probability of an unseen class that a mask must exceed to vote"
    )
    MAX_MASKS: v.SmallCount = Field(50, description="maximum number of SAM's masks per image")
    SAM_NAME: v.Text = Field(
        "",
        description='the SAM that generates the masks; "" = that of MODEL.CMPF.SAM, else vit_b; published: vit_h',
    )
    SAM_CHECKPOINT: v.Text = Field(
        "",
        description='file of its weights, or random; "" = that of MODEL.CMPF.SAM if it is the same SAM',
    )
    SOURCE: v.Choice[Literal["online", "cache"]] = Field(
        "online", description="cache = read the masks that cmpf save-sam-masks wrote to CACHE_DIR"
    )
    CACHE_DIR: v.Text = Field("", description="folder of the cache")
    PUBLISHED_POOLING: v.Flag = Field(False, description="pool CLIP's features as the published code does")
    POINTS_PER_SIDE: v.Few = Field(32, description="points per side of the grid at which SAM is prompted")
    COARSE_POINTS_PER_SIDE: v.FewOrZero = Field(
        0,
        description="points per side of a coarser grid that is prompted first; then only those points of the full grid "
        "that no mask covers. 0 = the full grid at once, as published",
    )
    PRED_IOU_THRESH: v.Fraction = Field(0.8, description="minimum quality of a mask as SAM predicts it")
    STABILITY_THRESH: v.Fraction = Field(0.7, description="minimum stability score of a mask")
    NMS_THRESH: v.Fraction = Field(
        0.7, description="IoU of boxes above which the worse of two masks is removed"
    )
    MIN_AREA: v.CountOrZero = Field(100, description="minimum area of a mask, in pixels")


class Aug(Section):
    """Test-time augmentation of semantic results: the mean of the scores of several views of an image."""

    ENABLED: v.Flag = Field(False, description="use it in evaluations; `cmpf eval --tta` enables it")
    MIN_SIZES: v.Sides = Field(
        (400, 500, 600, 700, 800, 900, 1000, 1100, 1200), description="shorter side of each view, in pixels"
    )
    MAX_SIZE: v.Count = Field(4000, description="maximum longer side of a view, in pixels")
    FLIP: v.Flag = Field(True, description="also use each view flipped horizontally")


class Test(Section):
    """Evaluation."""

    EVAL_PERIOD: v.CountOrZero = Field(
        5000, description="iterations between evaluations; 0 = at the end only"
    )
    BEST_METRIC: v.Metric = Field(
        "panoptic/PQ", description='metric that selects the best checkpoint; "" = keep no best checkpoint'
    )
    EVALUATORS: v.Parts = Field(
        (), description="additional evaluators besides those of the dataset; see docs/plugins.md"
    )
    IMS_PER_BATCH: v.SmallCount = Field(1, description="batch size of evaluations, per process")
    DETECTIONS_PER_IMAGE: v.SmallCount = Field(100, description="maximum number of instances per image")
    AUG: Aug = Aug()
    EXPECTED_RESULTS: v.Expectations = Field(
        (), description="(task, metric, percent, tolerance); an evaluation with other results fails"
    )
    MIN_ISLAND_SHARE: v.Fraction = Field(
        0.0,
        description="remove islands of a mask smaller than this fraction of its largest one; 0 = keep all, as "
        "published. A Predictor uses 0.1 instead of 0",
    )
    ENSEMBLE: Ensemble = Ensemble()


class Config(Section):
    """A run. Configurations are immutable; `cmpf.config.with_overrides` returns a changed copy."""

    VERSION: v.Version = Field(2, description="version of the configuration format, as in Detectron2")
    OUTPUT_DIR: v.Name = Field("./output", description="folder for all files that a run writes")
    SEED: v.Seed = Field(0, description="seed of all random number generators")
    NUM_THREADS: v.FewOrZero = Field(0, description="number of CPU threads of torch; 0 = torch's choice")
    MODEL: Model = Model()
    INPUT: Input = Input()
    DATASETS: Datasets = Datasets()
    DATALOADER: Dataloader = Dataloader()
    SOLVER: Solver = Solver()
    LOG: Log = Log()
    TEST: Test = Test()
