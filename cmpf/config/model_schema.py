# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Keys of the section MODEL: the network, its losses and its inference. Defaults are the full-size published model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cmpf.config import values as v
from cmpf.config.values import Section, Tree


class MaskFormerTest(Section):
    """What inference computes, and how."""

    SEMANTIC_ON: v.Flag = Field(True, description="compute the class of every pixel")
    INSTANCE_ON: v.Flag = Field(True, description="compute scored instances")
    PANOPTIC_ON: v.Flag = Field(True, description="compute panoptic segments")
    OBJECT_MASK_THRESHOLD: v.Fraction = Field(0.0, description="least score of a mask in panoptic results")
    OVERLAP_THRESHOLD: v.Fraction = Field(
        0.8, description="least visible share of a mask in panoptic results"
    )
    SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE: v.Flag = Field(
        False,
        description="resize masks to the image before they are combined; always so with PANOPTIC_ON or INSTANCE_ON",
    )
    SEMANTIC_OUTPUT: v.Choice[Literal["labels", "scores"]] = Field(
        "labels", description="semantic results as the class of each pixel, or as a score for each class"
    )
    CLIP_OBJECTNESS: v.Fraction = Field(
        0.0, description="how far CLIP's certainty of a mask lowers its chance to be void (arXiv 2603.21386)"
    )
    INSTANCE_MASK_SCORE: v.Choice[Literal["probability", "logit"]] = Field(
        "probability",
        description="an instance's score is its class times the mean of this inside its mask; logit = OVRCOAT's",
    )
    MASK_RECALL: v.Flag = Field(False, description="also evaluate how many true masks have a proposal")


class MaskFormer(Section):
    """The transformer decoder and its losses."""

    NHEADS: v.Few = Field(8, description="attention heads of the decoder")
    DIM_FEEDFORWARD: v.SmallCount = Field(
        2048, description="hidden width of the decoder's feed-forward layers"
    )
    DEC_LAYERS: v.Heads = Field(
        10,
        description="prediction heads, as Mask2Former counts: 10 = 9 decoder layers + the head before the first",
    )
    NUM_OBJECT_QUERIES: v.SmallCount = Field(250, description="queries, that is most masks of an image")
    HIDDEN_DIM: v.SmallCount = Field(256, description="width of the queries")
    DEEP_SUPERVISION: v.Flag = Field(True, description="losses after every decoder layer, not only the last")
    NO_OBJECT_WEIGHT: v.Weight = Field(0.1, description="weight of the void class in the class loss")
    CLASS_WEIGHT: v.Weight = Field(2.0, description="weight of the class loss, and in matching")
    MASK_WEIGHT: v.Weight = Field(5.0, description="weight of the mask's cross-entropy, and in matching")
    DICE_WEIGHT: v.Weight = Field(5.0, description="weight of the mask's dice loss, and in matching")
    TRAIN_NUM_POINTS: v.Count = Field(12544, description="points of a mask that losses read; 112 * 112")
    OVERSAMPLE_RATIO: v.Ratio = Field(
        3.0, description="candidates a point, of which uncertain ones are taken"
    )
    IMPORTANCE_SAMPLE_RATIO: v.Fraction = Field(0.75, description="share of points chosen by uncertainty")
    SIZE_DIVISIBILITY: v.Divisibility = Field(32, description="images are padded to multiples of this")
    TEST: MaskFormerTest = MaskFormerTest()


class SemSegHead(Section):
    """The pixel decoder; the SAM branch has the same widths."""

    PIXEL_DECODER_NAME: v.Name = Field("deformable", description="which pixel decoder; see docs/plugins.md")
    TRANSFORMER_DECODER_NAME: v.Name = Field("masked_attention", description="which transformer decoder")
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
        "convnext_large_d_320", description="architecture, as OpenCLIP names it, or cmpf_tiny"
    )
    PRETRAINED: v.Text = Field(
        "laion2b_s29b_b131k_ft_soup", description='OpenCLIP\'s tag of weights, or a file; "" = random'
    )
    TRAINED: v.Choice[Literal["none", "trunk"]] = Field(
        "none",
        description="trunk = stem and stages of the image tower are trained, and checkpoints hold the whole CLIP",
    )
    TRAIN_LOGIT_SCALE: v.Flag = Field(
        False, description="with TRAINED trunk: CLIP's scale of cosines is trained too"
    )
    LR_FACTOR: v.Factor = Field(
        0.1, description="share of SOLVER.BASE_LR that the trunk and the scale learn with"
    )
    DETACHED: v.Flag = Field(
        False, description="with TRAINED trunk: the decoder's losses do not train it, only CLIP_LOSSES do"
    )


class Sam(Section):
    """The frozen SAM."""

    NAME: v.Text = Field("vit_b", description='architecture; "" = no SAM, which is FC-CLIP\'s model')
    CHECKPOINT: v.Text = Field("", description='file of weights, or random; "" = the published file')
    KEEP_ASPECT: v.Flag = Field(
        False,
        description="False = it sees a square, as published; True = the image in its own aspect ratio: faster",
    )


class QueryInjector(Section):
    """SAM's evidence inside a query's mask enters the query."""

    NAME: v.Name = Field("mask_pooling", description="which Query Injector; see docs/plugins.md")
    ENABLED: v.Flag = Field(True, description="whether the model has it")
    LEVEL: v.Level = Field(2, description="it acts after the decoder layers that read this level")


class FeatureInjector(Section):
    """SAM's features enter the tokens that the queries read."""

    NAME: v.Name = Field("cross_attention", description="which Feature Injector; see docs/plugins.md")
    ENABLED: v.Flag = Field(True, description="whether the model has it")
    LEVEL: v.Level = Field(0, description="it acts in the decoder layers that read this level")
    KEEP_POSITIONS: v.Flag = Field(False, description="injected keys carry sine positions; published: not")


class ProposalQueries(Section):
    """Queries of the decoder that start at SAM's masks, beside the learned ones; masks by TEST.ENSEMBLE's keys."""

    ENABLED: v.Flag = Field(False, description="whether the decoder has them")
    NUMBER: v.SmallCount = Field(100, description="of them; the largest masks of an image are taken")


class SamBranch(Section):
    """The encoder of SAM's features, which the Feature Injector reads."""

    LAYERS: v.Few = Field(6, description="layers")
    FLAT_LEVELS: v.FlatLevels = Field(
        0, description="3 = the published checkpoints' attention over a flat map"
    )


class MaskAdapter(Section):
    """Learned pooling maps (Mask-Adapter, CVPR 2025), with MASK_EMBEDDING mask_adapter; they alone are trained."""

    MAPS: v.Maps = Field(16, description="pooling maps of a mask")
    DIM: v.Width = Field(768, description="channels of the adapter")
    MASK_THRESHOLD: v.Share = Field(
        0.5, description="probability above which a pixel is in the mask that it reads"
    )
    TRAINING: v.Choice[Literal["ground_truth", "mixed"]] = Field(
        "ground_truth",
        description="stage 1, true masks; or stage 2, also predicted ones that match a true one",
    )
    BASE_WEIGHTS: v.Text = Field(
        "", description='checkpoint of the model that it is made for, taken when a training begins; "" = none'
    )
    CLASS_WEIGHT: v.Weight = Field(2.0, description="weight of the class loss")
    CONSISTENCY_WEIGHT: v.Weight = Field(
        5.0, description="mixed: weight of the distance of a predicted mask's embedding from the true one's"
    )
    DETACH_TRUTH: v.Flag = Field(
        True, description="mixed: a true mask's embedding gets no gradient from that distance"
    )


class ContentTransfer(Section):
    """Text that looks at the image (MAFT+, ECCV 2024), with TEXT_TRANSFER content_dependent."""

    FORM: v.Choice[Literal["residual", "post_norm"]] = Field(
        "residual",
        description="text + norm(change), as panoptic MAFT+; or norm(text + change), as semantic MAFT+",
    )
    HEADS: v.Maps = Field(8, description="attention heads")
    PUBLISHED_LAYOUT: v.Flag = Field(
        False,
        description="True = CLIP's map is read in the order of its memory, as the published weights were trained",
    )


class ClipLosses(Section):
    """Losses of the names that CLIP gives to masks; 0 = off."""

    CLASS_WEIGHT: v.Weight = Field(
        0.0, description="class loss of CLIP's names of matched masks (OVRCOAT, arXiv 2603.21386)"
    )
    DOUBLE_SOFTMAX: v.Flag = Field(
        False, description="of that class loss: softmax of probabilities, as OVRCOAT was trained"
    )
    MASK_AWARE_WEIGHT: v.Weight = Field(
        0.0, description="CLIP's score of a mask should be its overlap with the truth (MAFT+)"
    )
    REPRESENTATION_WEIGHT: v.Weight = Field(
        0.0, description="the trained trunk's pooled maps should stay those of the CLIP it started as (MAFT+)"
    )


class Cmpf(Section):
    """What only CMPF has."""

    CLIP: Clip = Clip()
    SAM: Sam = Sam()
    GEOMETRIC_ENSEMBLE_ALPHA: v.Fraction = Field(0.4, description="weight of CLIP's score for seen classes")
    GEOMETRIC_ENSEMBLE_BETA: v.Fraction = Field(0.8, description="weight of CLIP's score for unseen classes")
    ENSEMBLE_ON_VALID_MASK: v.Flag = Field(False, description="leave CLIP's score out where a mask is empty")
    DECODER_CLASSES: v.Flag = Field(
        True, description="False = CLIP alone names masks, the decoder only says what is void (MAFT+)"
    )
    MASK_EMBEDDING: v.Choice[Literal["pool", "mask_adapter"]] = Field(
        "pool", description="how CLIP sees a mask: mean of its map inside it, or learned pooling maps"
    )
    MASK_ADAPTER: MaskAdapter = MaskAdapter()
    TEXT_TRANSFER: v.Choice[Literal["none", "content_dependent"]] = Field(
        "none", description="what CLIP compares masks with: the text, or the text after it has seen the image"
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
        description="of the frozen encoders: auto = bf16 on a GPU that has it, fp32 on a CPU; int8 is for a CPU",
    )
    COMPILE: v.Flag = Field(False, description="torch.compile for the frozen encoders")
    GRADIENT_CHECKPOINTING: v.Flag = Field(
        False, description="pixel decoder: less memory in training, some more time"
    )
    CRITERION_NAME: v.Name = Field("set_criterion", description="which losses; see docs/plugins.md")
    CLASS_ENSEMBLE_NAME: v.Name = Field(
        "geometric", description="how the decoder's and CLIP's opinions are fused"
    )
    MASK_ENSEMBLE_NAME: v.Name = Field(
        "openseg", description="how SAM's masks vote, with TEST.ENSEMBLE.ENABLED"
    )
    PLUGINS: v.Modules = Field((), description="Python modules that register parts of your own")
    EXTRA: v.FreeTree = Field(Tree(), description="keys of your own, for plug-ins: EXTRA.MY.KEY")


class Model(Section):
    """The network, its losses and its inference."""

    META_ARCHITECTURE: v.Choice[Literal["CMPF", "FrozenSeg", "FCCLIP"]] = Field(
        "CMPF", description="Detectron2's name of the model; the others mean the same, for older files"
    )
    DEVICE: v.Device = Field("auto", description="auto = cuda where there is one, else cpu")
    WEIGHTS: v.Text = Field("", description='checkpoint to start from; "" = none')
    ALLOW_UNUSED_WEIGHTS: v.Flag = Field(
        False, description="take a checkpoint that holds weights which the model does not have"
    )
    PIXEL_MEAN: v.ThreeNumbers = Field(
        (122.7709383, 116.7460125, 104.09373615), description="CLIP's, RGB 0..255"
    )
    PIXEL_STD: v.ThreePositive = Field(
        (68.5005327, 66.6321579, 70.32316305), description="CLIP's, RGB 0..255"
    )
    MASK_FORMER: MaskFormer = MaskFormer()
    SEM_SEG_HEAD: SemSegHead = SemSegHead()
    CMPF: Cmpf = Cmpf()
