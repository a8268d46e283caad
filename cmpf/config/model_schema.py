# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Keys of the section MODEL: network, losses and inference. Defaults are those of the full-size published model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cmpf.config import values as v
from cmpf.config.sections import Section, Tree


class MaskFormerTest(Section):
    """Inference: enabled tasks and post-processing."""

    SEMANTIC_ON: v.Flag = Field(True, description="compute semantic results")
    INSTANCE_ON: v.Flag = Field(True, description="compute instances with scores")
    PANOPTIC_ON: v.Flag = Field(True, description="compute panoptic segments")
    OBJECT_MASK_THRESHOLD: v.Fraction = Field(0.0, description="minimum score of a mask in panoptic results")
    OVERLAP_THRESHOLD: v.Fraction = Field(
        0.8, description="minimum visible fraction of a mask in panoptic results"
    )
    SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE: v.Flag = Field(
        False,
        description="resize masks to the image before combining them; always done with PANOPTIC_ON or INSTANCE_ON",
    )
    SEMANTIC_OUTPUT: v.Choice[Literal["labels", "scores"]] = Field(
        "labels", description="semantic results as the class of each pixel, or as scores of all classes"
    )
    CLIP_OBJECTNESS: v.Fraction = Field(
        0.0,
        description="how much CLIP's confidence in a mask lowers its void probability (OVRCOAT, arXiv 2603.21386)",
    )
    INSTANCE_MASK_SCORE: v.Choice[Literal["probability", "logit"]] = Field(
        "probability",
        description="the score of an instance is its class score times the mean of this inside its mask; logit = as "
        "OVRCOAT",
    )
    MASK_RECALL: v.Flag = Field(False, description="also evaluate the recall of mask proposals")


class MaskFormer(Section):
    """The transformer decoder and its losses."""

    NHEADS: v.Few = Field(8, description="number of attention heads of the decoder")
    DIM_FEEDFORWARD: v.SmallCount = Field(
        2048, description="hidden width of the decoder's feed-forward layers"
    )
    DEC_LAYERS: v.Heads = Field(
        10,
        description="prediction heads, as Mask2Former counts them: 10 = 9 decoder layers + the head before the first",
    )
    NUM_OBJECT_QUERIES: v.SmallCount = Field(
        250, description="number of queries, the maximum number of masks per image"
    )
    HIDDEN_DIM: v.SmallCount = Field(256, description="width of the queries")
    DEEP_SUPERVISION: v.Flag = Field(
        True, description="compute losses after every decoder layer, not only the last"
    )
    NO_OBJECT_WEIGHT: v.Weight = Field(0.1, description="weight of the void class in the class loss")
    CLASS_WEIGHT: v.Weight = Field(2.0, description="weight of the class loss and of its matching cost")
    MASK_WEIGHT: v.Weight = Field(
        5.0, description="weight of the masks' cross-entropy loss and of its matching cost"
    )
    DICE_WEIGHT: v.Weight = Field(5.0, description="weight of the masks' dice loss and of its matching cost")
    TRAIN_NUM_POINTS: v.Count = Field(
        12544, description="points per mask at which losses are computed; 112 * 112"
    )
    OVERSAMPLE_RATIO: v.Ratio = Field(
        3.0, description="candidates per point from which the most uncertain ones are selected"
    )
    IMPORTANCE_SAMPLE_RATIO: v.Fraction = Field(
        0.75, description="fraction of points selected by uncertainty; the others are random"
    )
    SIZE_DIVISIBILITY: v.Divisibility = Field(
        32, description="images are padded to multiples of this number of pixels"
    )
    TEST: MaskFormerTest = MaskFormerTest()


class SemSegHead(Section):
    """The pixel decoder; the SAM branch has the same widths."""

    PIXEL_DECODER_NAME: v.Name = Field(
        "deformable", description="name of the pixel decoder; see docs/plugins.md"
    )
    TRANSFORMER_DECODER_NAME: v.Name = Field(
        "masked_attention", description="name of the transformer decoder; see docs/plugins.md"
    )
    CONVS_DIM: v.SmallCount = Field(256, description="channels of the pixel decoder")
    MASK_DIM: v.SmallCount = Field(256, description="channels of mask features and mask embeddings")
    NORM_GROUPS: v.SmallCount = Field(32, description="groups of the group normalization")
    TRANSFORMER_ENC_LAYERS: v.Few = Field(6, description="layers of the deformable encoder")
    DIM_FEEDFORWARD: v.SmallCount = Field(
        1024, description="hidden width of the encoder's feed-forward layers"
    )
    DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS: v.Few = Field(8, description="heads of deformable attention")
    DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS: v.Few = Field(4, description="points per head and level")


class Clip(Section):
    """CLIP, frozen unless TRAINED says otherwise."""

    NAME: v.Name = Field(
        "convnext_large_d_320", description="OpenCLIP's name of the architecture, or cmpf_tiny"
    )
    PRETRAINED: v.Text = Field(
        "laion2b_s29b_b131k_ft_soup", description='OpenCLIP\'s tag of the weights, or a file; "" = random'
    )
    TRAINED: v.Choice[Literal["none", "trunk"]] = Field(
        "none",
        description="trunk = train stem and stages of the image tower; checkpoints then contain the whole CLIP",
    )
    TRAIN_LOGIT_SCALE: v.Flag = Field(False, description="with TRAINED trunk: also train CLIP's logit scale")
    LR_FACTOR: v.Factor = Field(
        0.1, description="learning rate of the trunk and the logit scale, as a factor of SOLVER.BASE_LR"
    )
    DETACHED: v.Flag = Field(
        False, description="with TRAINED trunk: only CLIP_LOSSES train it, not the decoder's losses"
    )


class Sam(Section):
    """The frozen SAM."""

    NAME: v.Text = Field("vit_b", description='architecture; "" = no SAM, which is FC-CLIP\'s model')
    CHECKPOINT: v.Text = Field("", description='file of weights, or random; "" = the published file')
    KEEP_ASPECT: v.Flag = Field(
        False,
        description="False = resize images to a square, as published; True = keep their aspect ratio, which is faster",
    )


class QueryInjector(Section):
    """Adds SAM's embedding, pooled inside a query's mask, to the query."""

    NAME: v.Name = Field("mask_pooling", description="name of the Query Injector; see docs/plugins.md")
    ENABLED: v.Flag = Field(True, description="whether the model has it")
    LEVEL: v.Level = Field(2, description="it acts after the decoder layers that use this level")


class FeatureInjector(Section):
    """Adds SAM's features to the tokens that the queries attend to."""

    NAME: v.Name = Field("cross_attention", description="name of the Feature Injector; see docs/plugins.md")
    ENABLED: v.Flag = Field(True, description="whether the model has it")
    LEVEL: v.Level = Field(0, description="it acts in the decoder layers that use this level")
    KEEP_POSITIONS: v.Flag = Field(
        False, description="add sine position embeddings to the injected keys; published: no"
    )


class ProposalQueries(Section):
    """Queries initialized from SAM's masks, in addition to the learned ones; TEST.ENSEMBLE configures the masks."""

    ENABLED: v.Flag = Field(False, description="whether the decoder has them")
    NUMBER: v.SmallCount = Field(
        100, description="number of these queries; the largest masks of an image are used"
    )


class SamBranch(Section):
    """The encoder of SAM's features for the Feature Injector."""

    LAYERS: v.Few = Field(6, description="number of layers")
    FLAT_LEVELS: v.FlatLevels = Field(
        0, description="3 = the attention over a flattened map of the published checkpoints"
    )


class MaskAdapter(Section):
    """Learned pooling maps (Mask-Adapter, CVPR 2025), with MASK_EMBEDDING mask_adapter; only they are trained."""

    MAPS: v.Maps = Field(16, description="number of pooling maps per mask")
    DIM: v.Width = Field(768, description="channels of the adapter")
    MASK_THRESHOLD: v.Share = Field(
        0.5, description="probability above which a pixel belongs to the adapter's input mask"
    )
    TRAINING: v.Choice[Literal["ground_truth", "mixed"]] = Field(
        "ground_truth",
        description="train on ground-truth masks (stage 1), or also on predicted masks that match one (stage 2)",
    )
    BASE_WEIGHTS: v.Text = Field(
        "", description='checkpoint of the base model, loaded when training starts; "" = none'
    )
    CLASS_WEIGHT: v.Weight = Field(2.0, description="weight of the class loss")
    CONSISTENCY_WEIGHT: v.Weight = Field(
        5.0,
        description="mixed: weight of the distance between the embeddings of a predicted mask and its ground truth",
    )
    DETACH_TRUTH: v.Flag = Field(
        True, description="mixed: this distance gives no gradient to the embedding of the ground-truth mask"
    )


class ContentTransfer(Section):
    """Text embeddings that attend to the image (MAFT+, ECCV 2024), with TEXT_TRANSFER content_dependent."""

    FORM: v.Choice[Literal["residual", "post_norm"]] = Field(
        "residual",
        description="text + norm(change), as panoptic MAFT+; or norm(text + change), as semantic MAFT+",
    )
    HEADS: v.Maps = Field(8, description="number of attention heads")
    PUBLISHED_LAYOUT: v.Flag = Field(
        False,
        description="True = read CLIP's feature map in memory order, as in the training of the published weights",
    )


class ClipLosses(Section):
    """Losses of CLIP's mask classification; a weight of 0 disables a loss."""

    CLASS_WEIGHT: v.Weight = Field(
        0.0,
        description="weight of the class loss on CLIP's scores of matched masks (OVRCOAT, arXiv 2603.21386)",
    )
    DOUBLE_SOFTMAX: v.Flag = Field(
        False, description="apply this class loss to the softmax of probabilities, as OVRCOAT was trained"
    )
    MASK_AWARE_WEIGHT: v.Weight = Field(
        0.0,
        description="weight of the distance between CLIP's score of a mask and its IoU with the truth (MAFT+)",
    )
    REPRESENTATION_WEIGHT: v.Weight = Field(
        0.0,
        description="weight of the distance between pooled maps of the trained trunk and of its initial CLIP (MAFT+)",
    )


class Cmpf(Section):
    """Keys that only CMPF has."""

    CLIP: Clip = Clip()
    SAM: Sam = Sam()
    GEOMETRIC_ENSEMBLE_ALPHA: v.Fraction = Field(0.4, description="weight of CLIP's score for seen classes")
    GEOMETRIC_ENSEMBLE_BETA: v.Fraction = Field(0.8, description="weight of CLIP's score for unseen classes")
    ENSEMBLE_ON_VALID_MASK: v.Flag = Field(False, description="ignore CLIP's scores of empty masks")
    DECODER_CLASSES: v.Flag = Field(
        True, description="False = only CLIP classifies masks; the decoder only predicts void (MAFT+)"
    )
    MASK_EMBEDDING: v.Choice[Literal["pool", "mask_adapter"]] = Field(
        "pool",
        description="how CLIP embeds a mask: mean of its feature map inside the mask, or learned pooling maps",
    )
    MASK_ADAPTER: MaskAdapter = MaskAdapter()
    TEXT_TRANSFER: v.Choice[Literal["none", "content_dependent"]] = Field(
        "none",
        description="content_dependent = text embeddings attend to the image before they are compared (MAFT+)",
    )
    CONTENT_TRANSFER: ContentTransfer = ContentTransfer()
    CLIP_LOSSES: ClipLosses = ClipLosses()
    QUERY_INJECTOR: QueryInjector = QueryInjector()
    FEATURE_INJECTOR: FeatureInjector = FeatureInjector()
    PROPOSAL_QUERIES: ProposalQueries = ProposalQueries()
    SAM_BRANCH: SamBranch = SamBranch()
    DEFORMABLE_ATTENTION: v.Choice[Literal["auto", "torch", "triton"]] = Field(
        "auto", description="auto = Triton kernels on CUDA where they run, else PyTorch"
    )
    PRECISION: v.Choice[Literal["auto", "fp32", "bf16", "int8"]] = Field(
        "auto",
        description="of the frozen encoders; auto = bf16 on GPUs that support it, fp32 on a CPU; int8 only on a CPU",
    )
    COMPILE: v.Flag = Field(False, description="compile the frozen encoders with torch.compile")
    GRADIENT_CHECKPOINTING: v.Flag = Field(
        False, description="of the pixel decoder: training needs less memory and a little more time"
    )
    CRITERION_NAME: v.Name = Field("set_criterion", description="name of the losses; see docs/plugins.md")
    CLASS_ENSEMBLE_NAME: v.Name = Field(
        "geometric", description="how the decoder's and CLIP's class scores are combined; see docs/plugins.md"
    )
    MASK_ENSEMBLE_NAME: v.Name = Field(
        "openseg", description="how SAM's masks vote, with TEST.ENSEMBLE.ENABLED; see docs/plugins.md"
    )
    PLUGINS: v.Modules = Field((), description="Python modules that register custom parts")
    EXTRA: v.FreeTree = Field(Tree(), description="arbitrary keys for plug-ins: EXTRA.MY.KEY")


class Model(Section):
    """Network, losses and inference."""

    META_ARCHITECTURE: v.Choice[Literal["CMPF", "FrozenSeg", "FCCLIP"]] = Field(
        "CMPF", description="the model's name in Detectron2; the other names mean the same, for older files"
    )
    DEVICE: v.Device = Field("auto", description="auto = cuda if available, else cpu")
    WEIGHTS: v.Text = Field("", description='checkpoint to load; "" = none')
    ALLOW_UNUSED_WEIGHTS: v.Flag = Field(
        False, description="accept a checkpoint with weights that the model does not have"
    )
    PIXEL_MEAN: v.ThreeNumbers = Field(
        (122.7709383, 116.7460125, 104.09373615), description="mean of CLIP's input, RGB in 0..255"
    )
    PIXEL_STD: v.ThreePositive = Field(
        (68.5005327, 66.6321579, 70.32316305), description="standard deviation of CLIP's input, RGB in 0..255"
    )
    MASK_FORMER: MaskFormer = MaskFormer()
    SEM_SEG_HEAD: SemSegHead = SemSegHead()
    CMPF: Cmpf = Cmpf()
