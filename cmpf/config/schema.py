# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Every configuration key: its type with what it may hold, its default, and its meaning in a line.

Names are those of Detectron2, Mask2Former and FC-CLIP; what only CMPF has stands under MODEL.CMPF and TEST.ENSEMBLE.
Defaults are the full-size published model, trained on COCO panoptic.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cmpf.config import values as v
from cmpf.config.model_schema import Model
from cmpf.config.values import Section

# A twentieth of 512 pixels apart: 256, 307, ... 1024.
ADE20K_SIDES = tuple(int(512 * 0.1 * step) for step in range(5, 21))


class Crop(Section):
    """Random crops in training on semantic data."""

    ENABLED: v.Flag = Field(True, description="crop at all")
    TYPE: v.Choice[Literal["absolute", "absolute_range", "relative", "relative_range"]] = Field(
        "absolute", description="SIZE is pixels, a range of pixels, shares of the image, or least shares"
    )
    SIZE: v.TwoPositive = Field((512.0, 512.0), description="(H, W), or the range")
    SINGLE_CATEGORY_MAX_AREA: v.Fraction = Field(
        0.75, description="largest share of a crop that one class may have; 1 = any"
    )


class Input(Section):
    """Sizes and augmentations: large-scale jitter for panoptic and instance data, Mask2Former's for semantic data."""

    AUGMENTATIONS: v.Parts = Field(
        (), description="in this order, in place of those for the kind of data; see docs/plugins.md"
    )
    IMAGE_SIZE: v.Side = Field(
        1024, description="panoptic and instance data: training crop, square, in pixels"
    )
    MIN_SCALE: v.Positive = Field(0.1, description="panoptic and instance data: least scale of the jitter")
    MAX_SCALE: v.Positive = Field(2.0, description="panoptic and instance data: largest scale of the jitter")
    SHARED_CROP_OFFSET: v.Flag = Field(
        False,
        description="panoptic and instance data: one random number places the crop in both axes, as published",
    )
    MIN_SIZE_TRAIN: v.Sides = Field(
        ADE20K_SIDES, description="semantic data: shorter side in training, in pixels"
    )
    MIN_SIZE_TRAIN_SAMPLING: v.Choice[Literal["choice", "range"]] = Field(
        "choice", description="semantic data: one of MIN_SIZE_TRAIN, or any side between its two"
    )
    MAX_SIZE_TRAIN: v.Side = Field(2048, description="semantic data: most pixels of the longer side")
    CROP: Crop = Crop()
    COLOR_AUG_SSD: v.Flag = Field(True, description="semantic data: SSD's color augmentation")
    SIZE_DIVISIBILITY: v.Side = Field(
        32, description="semantic data: images are padded to the crop size, and to multiples of this"
    )
    RANDOM_FLIP: v.Choice[Literal["horizontal", "none"]] = Field(
        "horizontal", description="all data: random flips"
    )
    MIN_SIZE_TEST: v.SideOrZero = Field(
        0, description="shorter side in testing; 0 = the dataset's own, 800 where it has none"
    )
    MAX_SIZE_TEST: v.SideOrZero = Field(
        0, description="most pixels of the longer side in testing; 0 = the dataset's own, or 1333"
    )


class Datasets(Section):
    """Names of registered datasets, or YAML files that describe one's own."""

    TRAIN: v.SomeNames = Field(
        ("openvocab_coco_2017_train_panoptic_with_sem_seg",),
        description='the first is trained on; its classes are the "seen" ones',
    )
    TEST: v.Names = Field(
        ("openvocab_coco_2017_val_panoptic_with_sem_seg",), description="evaluated one after the other"
    )
    SEEN: v.Choice[Literal["published", "words"]] = Field(
        "published",
        description="what tells seen classes: the papers, of known datasets after training on COCO panoptic, and equal "
        "words of all others; or equal words always",
    )
    VOCABULARIES: v.Vocabularies = Field(
        "own", description="words of the classes: the papers' where known, CMPF's own, or those of files"
    )


class Dataloader(Section):
    """Processes that read images."""

    NUM_WORKERS: v.Workers = Field(-1, description="processes that read images")
    ON_ERROR: v.Choice[Literal["stop", "skip"]] = Field(
        "stop",
        description="a training image that cannot be read: stop and save, or take the next one, "
        "up to 0.1 % of the images",
    )


class ClipGradients(Section):
    """Clipping of the L2 norm of all gradients together."""

    ENABLED: v.Flag = Field(True, description="clip at all")
    CLIP_VALUE: v.Positive = Field(0.01, description="largest norm")


class Amp(Section):
    """Mixed precision of the trained parts."""

    ENABLED: v.Flag = Field(True, description="mixed precision in training, on a GPU")
    DTYPE: v.Choice[Literal["auto", "bf16", "fp16"]] = Field(
        "auto", description="auto = bf16 on a GPU that has it, fp16 on another one"
    )


class Ema(Section):
    """Average of the weights, evaluated and saved as the final ones."""

    ENABLED: v.Flag = Field(False, description="keep the average")
    DECAY: v.Decay = Field(0.999, description="share of the old average that each iteration keeps")


class Solver(Section):
    """Optimizer, schedule, checkpoints."""

    IMS_PER_BATCH: v.SmallCount = Field(16, description="images of a batch, over all processes")
    BASE_LR: v.Positive = Field(1e-4, description="learning rate after warmup")
    WEIGHT_DECAY: v.Weight = Field(0.05, description="AdamW's weight decay")
    WEIGHT_DECAY_NORM: v.Weight = Field(0.0, description="that of normalization layers")
    WEIGHT_DECAY_EMBED: v.Weight = Field(
        0.0, description="that of nn.Embedding: queries and the decoder's levels"
    )
    # 118,287 images / 16 * 50 epochs = 369,647; published 368,750
    MAX_ITER: v.Count = Field(368750, description="iterations; 50 epochs of COCO")
    LR_SCHEDULER_NAME: v.Choice[Literal["WarmupMultiStepLR", "WarmupCosineLR", "WarmupPolyLR"]] = Field(
        "WarmupMultiStepLR", description="schedule of the learning rate"
    )
    STEPS: v.Rising = Field(
        (327778, 355092), description="WarmupMultiStepLR: iterations at which the rate is multiplied by GAMMA"
    )
    GAMMA: v.Factor = Field(0.1, description="WarmupMultiStepLR: factor at each of STEPS")
    POLY_POWER: v.Factor = Field(
        0.9, description="WarmupPolyLR: power of the share of iterations that are left"
    )
    WARMUP_ITERS: v.CountOrZero = Field(10, description="iterations of the warmup")
    WARMUP_FACTOR: v.Fraction = Field(1.0, description="share of the rate at which the warmup starts")
    CLIP_GRADIENTS: ClipGradients = ClipGradients()
    AMP: Amp = Amp()
    ACCUMULATION_STEPS: v.SmallCount = Field(
        1, description="parts that a process cuts its share of a batch into, to save memory"
    )
    REFERENCE_BATCH_SIZE: v.CountOrZero = Field(
        0,
        description="BASE_LR is meant for this batch and scaled linearly to another one; 0 = it is not scaled",
    )
    EMA: Ema = Ema()
    CHECKPOINT_PERIOD: v.Count = Field(5000, description="iterations between checkpoints")
    CHECKPOINTS_KEPT: v.Count = Field(3, description="newest checkpoints that are kept")


class Log(Section):
    """What a training tells."""

    PERIOD: v.Count = Field(20, description="iterations in one line of the log")
    TENSORBOARD: v.Flag = Field(True, description="write events for TensorBoard")
    PICTURES: v.FewOrZero = Field(
        4, description="training images shown with predictions at each TEST.EVAL_PERIOD; 0 = none"
    )
    WANDB_PROJECT: v.Text = Field("", description='project of Weights & Biases; "" = off')


class Ensemble(Section):
    """The OpenSeg Ensemble: SAM's own masks vote on semantic results and are candidates for the others."""

    ENABLED: v.Flag = Field(False, description="whether it takes part")
    TASKS: v.Tasks = Field(
        ("semantic",),
        description='evaluated results that it takes part in; ("semantic",) = published. A Predictor uses all',
    )
    DECODER_SHARE: v.Fraction = Field(
        0.3, description="candidates: weight of the decoder's opinion where one of its masks covers SAM's"
    )
    MAX_OVERLAP: v.Fraction = Field(
        0.5, description="candidates: IoU above which the surer of two masks of a class stays; 1 = both stay"
    )
    PANOPTIC_OVERLAP_THRESHOLD: v.Fraction = Field(
        0.5, description="replaces MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD where candidates take part"
    )
    ALPHA: v.Fraction = Field(0.2, description="SAM's share in the score of unseen classes")
    SCORE_THRESHOLD: v.Fraction = Field(0.5, description="unseen probability that a mask must exceed to vote")
    MAX_MASKS: v.SmallCount = Field(50, description="most masks of an image")
    SAM_NAME: v.Text = Field(
        "",
        description='the SAM that makes them; "" = that of MODEL.CMPF.SAM, else vit_b; published: vit_h',
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
    POINTS_PER_SIDE: v.Few = Field(32, description="SAM is asked at a grid of points, so many a side")
    COARSE_POINTS_PER_SIDE: v.FewOrZero = Field(
        0,
        description="a grid that is asked first; of the other one then only points that no mask covers. 0 = all at "
        "once, as published",
    )
    PRED_IOU_THRESH: v.Fraction = Field(0.8, description="least quality that SAM gives a mask itself")
    STABILITY_THRESH: v.Fraction = Field(0.7, description="least stability of a mask")
    NMS_THRESH: v.Fraction = Field(0.7, description="IoU of boxes above which the worse mask goes")
    MIN_AREA: v.CountOrZero = Field(100, description="masks of fewer pixels go")


class Aug(Section):
    """Test-time augmentation of semantic results: the mean of the scores of several views of an image."""

    ENABLED: v.Flag = Field(False, description="whether evaluations use it; `cmpf eval --tta` switches it on")
    MIN_SIZES: v.Sides = Field(
        (400, 500, 600, 700, 800, 900, 1000, 1100, 1200), description="shorter side of each view, in pixels"
    )
    MAX_SIZE: v.Count = Field(4000, description="most pixels of the longer side of a view")
    FLIP: v.Flag = Field(True, description="every view also mirrored, left to right")


class Test(Section):
    """Evaluation."""

    EVAL_PERIOD: v.CountOrZero = Field(
        5000, description="iterations between evaluations; 0 = at the end only"
    )
    BEST_METRIC: v.Metric = Field(
        "panoptic/PQ", description='what chooses the best checkpoint; "" = none is kept'
    )
    EVALUATORS: v.Parts = Field((), description="evaluators beside those of the dataset; see docs/plugins.md")
    IMS_PER_BATCH: v.SmallCount = Field(1, description="images in one pass, in each process")
    DETECTIONS_PER_IMAGE: v.SmallCount = Field(100, description="most instances of an image")
    AUG: Aug = Aug()
    EXPECTED_RESULTS: v.Expectations = Field(
        (), description="(task, metric, percent, tolerance); other results of an evaluation are an error"
    )
    MIN_ISLAND_SHARE: v.Fraction = Field(
        0.0,
        description="islands of a mask below this share of its largest one are removed; 0 = none, as published. "
        "A Predictor whose configuration says 0 uses 0.1",
    )
    ENSEMBLE: Ensemble = Ensemble()


class Config(Section):
    """A run. Its configuration cannot be changed; `cmpf.config.with_overrides` makes a changed one."""

    VERSION: v.Version = Field(2, description="of the form of configurations, as Detectron2 counts")
    OUTPUT_DIR: v.Name = Field("./output", description="folder for everything that a run writes")
    SEED: v.Seed = Field(0, description="of all random numbers")
    NUM_THREADS: v.FewOrZero = Field(0, description="CPU threads of torch; 0 = torch's own choice")
    MODEL: Model = Model()
    INPUT: Input = Input()
    DATASETS: Datasets = Datasets()
    DATALOADER: Dataloader = Dataloader()
    SOLVER: Solver = Solver()
    LOG: Log = Log()
    TEST: Test = Test()
