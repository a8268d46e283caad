# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The network and its frozen half from a configuration."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from helpers.tiny_model import random_image, tiny_config, tiny_model

import cmpf.factory.model
from cmpf.config import get_cfg
from cmpf.data import get_spec
from cmpf.encoders.clip import CLIP
from cmpf.encoders.clip_factory import build_clip
from cmpf.encoders.int8 import int8_works
from cmpf.encoders.sam import build_sam
from cmpf.errors import ConfigError, ModelNameError
from cmpf.factory import build_criterion, build_model, build_settings, use_threads
from cmpf.factory.encoders import (
    MAX_DIFFERENCE,
    build_encoders,
    build_online_masks,
    build_precision,
    mask_sam,
)
from cmpf.factory.model import build_pixel_decoder, build_sam_branch, evaluation_size
from cmpf.inference import InferenceSettings, MaskEnsembleSettings
from cmpf.inference.mask_proposals import CachedMasks
from cmpf.inference.proposal_cache import ProposalCache
from cmpf.losses import SetCriterion
from cmpf.modeling.deformable.module import MultiScaleDeformableAttention
from cmpf.modeling.deformable.ops import AttentionFunction
from cmpf.modeling.deformable.triton import triton_deformable_attention

FULL_SIZE = "configs/coco/cmpf/convnext_large_eval_ade20k.yaml"
RANDOM = ["MODEL.CMPF.CLIP.PRETRAINED", "", "MODEL.CMPF.SAM.CHECKPOINT", "random", "MODEL.DEVICE", "cpu"]
CITYSCAPES = "openvocab_cityscapes_fine_panoptic_val"


def test_widths_and_depths_come_from_the_configuration() -> None:
    model = tiny_model(
        overrides=["MODEL.MASK_FORMER.DEC_LAYERS", 5, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 7]
    )
    outputs = model.train().losses([{"image": random_image(), "targets": {
        "labels": torch.tensor([0]), "masks": torch.ones(1, 64, 96, dtype=torch.bool)}}])  # fmt: skip
    assert len(outputs) == 3 * 5  # 5 heads: 4 layers and the head before the first
    assert model.decoder.query_content.weight.shape == (7, 64)


def under(section: str, **values: object) -> list[object]:
    """Overrides of the keys of a section."""
    return [part for key, value in values.items() for part in (f"{section}.{key}", value)]


def test_settings_are_those_of_the_configuration() -> None:
    test = under(
        "MODEL.MASK_FORMER.TEST",
        **{"SEMANTIC_ON": False, "PANOPTIC_ON": True, "INSTANCE_ON": False, "MASK_RECALL": True},
        **{"SEMANTIC_OUTPUT": "scores", "SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": True},
        **{"OBJECT_MASK_THRESHOLD": 0.2, "OVERLAP_THRESHOLD": 0.3, "CLIP_OBJECTNESS": 0.5},
        **{"INSTANCE_MASK_SCORE": "logit"},
    )
    ensemble = under(
        "TEST.ENSEMBLE",
        **{"TASKS": ["panoptic"], "ALPHA": 0.31, "SCORE_THRESHOLD": 0.32, "DECODER_SHARE": 0.33},
        **{"MAX_OVERLAP": 0.34, "PANOPTIC_OVERLAP_THRESHOLD": 0.35, "PUBLISHED_POOLING": True},
    )
    others = under("MODEL.CMPF", GEOMETRIC_ENSEMBLE_ALPHA=0.1, GEOMETRIC_ENSEMBLE_BETA=0.9)
    others += under("TEST", DETECTIONS_PER_IMAGE=17, MIN_ISLAND_SHARE=0.02)
    valid = under("MODEL.CMPF", ENSEMBLE_ON_VALID_MASK=True)
    assert build_settings(tiny_config(overrides=[*test, *ensemble, *others, *valid])) == InferenceSettings(
        alpha=0.1,
        beta=0.9,
        ensemble_on_valid_mask=True,
        clip_objectness=0.5,
        semantic=False,
        panoptic=True,
        instance=False,
        semantic_output="scores",
        object_mask_threshold=0.2,
        overlap_threshold=0.3,
        resize_before=True,
        detections_per_image=17,
        instance_mask_score="logit",
        min_island_share=0.02,
        mask_ensemble=MaskEnsembleSettings(
            tasks=frozenset({"panoptic"}),
            alpha=0.31,
            score_threshold=0.32,
            decoder_share=0.33,
            max_overlap=0.34,
            overlap_threshold=0.35,
            published_pooling=True,
        ),
        proposals=True,
    )
    assert build_settings(tiny_config("no_ensemble")).mask_ensemble is None


def test_the_published_sam_branch_has_weights_for_three_levels() -> None:
    cfg = tiny_config(overrides=["MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS", 3])
    sam = build_encoders(cfg).sam
    ours = build_sam_branch(tiny_config(), sam)
    published = build_sam_branch(cfg, sam)
    assert ours is not None
    assert published is not None
    ours_count, published_count = (sum(p.numel() for p in part.parameters()) for part in (ours, published))
    assert published_count > ours_count


def test_without_deep_supervision_only_the_last_head_is_scored() -> None:
    model = tiny_model("fcclip_tiny", ["MODEL.MASK_FORMER.DEEP_SUPERVISION", False]).train()
    sample = {
        "image": random_image(),
        "targets": {"labels": torch.tensor([0]), "masks": torch.ones(1, 64, 96) > 0},
    }
    assert sorted(model([sample])) == ["loss_ce", "loss_dice", "loss_mask"]


def test_the_keys_of_the_losses_reach_matcher_and_criterion() -> None:
    weights = {"CLASS_WEIGHT": 1.1, "MASK_WEIGHT": 1.2, "DICE_WEIGHT": 1.3, "NO_OBJECT_WEIGHT": 0.4}
    points = {"TRAIN_NUM_POINTS": 15, "OVERSAMPLE_RATIO": 1.6, "IMPORTANCE_SAMPLE_RATIO": 0.7}
    found = build_criterion(tiny_config(overrides=under("MODEL.MASK_FORMER", **weights, **points)), 4)
    assert isinstance(found, SetCriterion)
    matcher = found.matcher
    assert (matcher.class_weight, matcher.mask_weight, matcher.dice_weight) == (1.1, 1.2, 1.3)
    assert found.weights == {"loss_ce": 1.1, "loss_mask": 1.2, "loss_dice": 1.3}
    assert (found.num_classes, found.no_object_weight, found.deep_supervision) == (4, 0.4, True)
    assert matcher.num_points == found.num_points == 15
    assert (found.oversample_ratio, found.importance_sample_ratio) == (1.6, 0.7)


def test_an_unknown_encoder_is_refused_with_the_nearest_names() -> None:
    with pytest.raises(ModelNameError, match="vit_b"):
        build_model(get_cfg("no_ensemble", ["MODEL.CMPF.SAM.NAME", "vit_bb"]))
    with pytest.raises(ModelNameError, match="convnext_large_d_320"):
        build_model(get_cfg("no_ensemble", ["MODEL.CMPF.CLIP.NAME", "convnext_large_d_32"]))


def test_deformable_attention_is_chosen_once_for_the_device_of_the_model(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str]] = []

    def choose(name: str, device: torch.device) -> AttentionFunction:
        asked.append((name, device.type))
        return triton_deformable_attention

    monkeypatch.setattr(cmpf.factory.model, "choose_deformable_attention", choose)
    model = build_model(tiny_config(overrides=["MODEL.CMPF.DEFORMABLE_ATTENTION", "triton"]))
    assert asked == [("triton", "cpu")]
    attentions = [m for m in model.modules() if isinstance(m, MultiScaleDeformableAttention)]
    assert len(attentions) > 2  # the pixel decoder's and the SAM branch's
    assert {m.function for m in attentions} == {triton_deformable_attention}


@pytest.mark.parametrize("asked", [True, False])
def test_gradient_checkpointing_is_the_pixel_decoders(asked: bool) -> None:
    model = tiny_model(overrides=["MODEL.CMPF.GRADIENT_CHECKPOINTING", asked])
    assert model.pixel_decoder.encoder.gradient_checkpointing is asked
    assert model.sam_branch is not None
    assert not model.sam_branch.encoder.gradient_checkpointing


def test_the_pixel_decoder_takes_its_channels_from_the_built_trunk() -> None:
    cfg = tiny_config()
    clip: CLIP = build_encoders(cfg).clip
    decoder = build_pixel_decoder(cfg, clip)
    levels = {name: torch.randn(1, channels, 64 // s, 64 // s)
              for (name, channels), s in zip(clip.channels.items(), (4, 8, 16, 32), strict=True)}  # fmt: skip
    assert decoder(levels).mask_features.shape == (1, 64, 16, 16)


def test_injectors_act_at_the_configured_levels() -> None:
    levels = ["MODEL.CMPF.QUERY_INJECTOR.LEVEL", 0, "MODEL.CMPF.FEATURE_INJECTOR.LEVEL", 1]
    decoder = tiny_model(overrides=levels).decoder
    assert decoder.query_injector_level == 0
    assert list(decoder.feature_injectors) == ["1", "4"]  # of 6 layers


@pytest.mark.slow
def test_the_full_size_model_builds_with_random_weights_and_segments_one_image() -> None:
    model = build_model(get_cfg(FULL_SIZE, RANDOM)).eval()
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert 26e6 < trained < 27e6  # spec: 26.5 M
    with torch.inference_mode():
        (result,) = model([{"image": random_image(320, 416), "height": 240, "width": 312}])
    assert result["sem_seg"].shape == (240, 312)
    assert result["panoptic_seg"][0].shape == (240, 312)
    assert result["instances"].pred_masks.shape[1:] == (240, 312)


def test_programs_apply_the_number_of_threads_and_0_is_torchs_own(monkeypatch: pytest.MonkeyPatch) -> None:
    numbers: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", numbers.append)
    build_model(tiny_config("no_ensemble", ["NUM_THREADS", 3]))
    assert numbers == []
    for threads in (3, 0):
        use_threads(tiny_config("no_ensemble", ["NUM_THREADS", threads]))
    use_threads(None)  # a predictor built by hand
    assert numbers == [3]


def test_a_dataset_is_tested_at_its_own_size() -> None:
    assert evaluation_size(get_cfg(), get_spec(CITYSCAPES)) == (1024, 2560)


def test_the_configuration_goes_before_the_dataset() -> None:
    cfg = get_cfg(overrides=["INPUT.MIN_SIZE_TEST", 512, "INPUT.MAX_SIZE_TEST", 1024])
    assert evaluation_size(cfg, get_spec(CITYSCAPES)) == (512, 1024)
    assert evaluation_size(cfg) == (512, 1024)


def test_images_of_no_dataset_have_the_usual_size() -> None:
    assert evaluation_size(get_cfg()) == (800, 1333)
    assert evaluation_size(get_cfg(), get_spec("shapes_val")) == (800, 1333)


def test_the_device_is_the_configured_one() -> None:
    assert build_model(tiny_config()).device.type == "cpu"


def test_one_sam_serves_features_and_proposals() -> None:
    encoders = build_encoders(tiny_config())
    assert encoders.mask_source.proposer is not None
    assert encoders.mask_source.proposer.encoder is encoders.sam


def test_compile_wraps_both_frozen_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[str] = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, *_, **__: compiled.append(type(self).__name__)
    )
    build_encoders(tiny_config(overrides=["MODEL.CMPF.COMPILE", True]))
    assert sorted(compiled) == ["CLIP", "SAMEncoder"]


def test_encoders_compute_in_the_precision_asked_for() -> None:
    batch = [{"image": random_image()}]
    features = {}
    for precision in ("auto", "fp32", "bf16"):
        torch.manual_seed(0)
        encoders = build_encoders(tiny_config(overrides=["MODEL.CMPF.PRECISION", precision]))
        features[precision], _, _ = encoders(batch, with_sam=True)
    dense = {name: found.clip.dense.float() for name, found in features.items()}
    assert torch.equal(dense["auto"], dense["fp32"])  # on a CPU
    assert not torch.equal(dense["bf16"], dense["fp32"])
    # Eight bits of mantissa: one rounding is up to 1 / 256 of a number, and there are some dozen layers.
    torch.testing.assert_close(
        dense["bf16"], dense["fp32"], atol=0.05 * float(dense["fp32"].abs().max()), rtol=0
    )
    assert features["bf16"].sam.dtype is torch.float32


def test_fp32_stays_float32_inside_the_autocast_of_a_training() -> None:
    batch = [{"image": random_image()}]
    encoders = build_encoders(tiny_config(overrides=["MODEL.CMPF.PRECISION", "fp32"]))
    alone, _, _ = encoders(batch, with_sam=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside, _, _ = encoders(batch, with_sam=True)
    assert torch.equal(alone.clip.dense, inside.clip.dense)
    assert torch.equal(alone.sam, inside.sam)


@pytest.mark.parametrize(
    ("wanted", "has_bf16", "expected"),
    [
        ("auto", True, torch.bfloat16),
        ("auto", False, None),
        ("fp32", True, torch.float32),
        ("bf16", True, torch.bfloat16),
    ],
)
def test_on_a_gpu_auto_is_bf16_where_the_gpu_has_it(
    wanted: str, has_bf16: bool, expected: torch.dtype | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bf16)
    cfg = tiny_config(overrides=["MODEL.CMPF.PRECISION", wanted, "MODEL.DEVICE", "cuda"])
    assert build_precision(cfg) is expected


def test_bf16_on_a_gpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: False)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Old Card")
    cfg = tiny_config(overrides=["MODEL.CMPF.PRECISION", "bf16", "MODEL.DEVICE", "cuda"])
    with pytest.raises(ConfigError, match="PRECISION bf16: Old Card has no bfloat16; use auto or fp32"):
        build_precision(cfg)


def test_int8_on_a_gpu_is_refused() -> None:
    cfg = tiny_config(overrides=["MODEL.CMPF.PRECISION", "int8", "MODEL.DEVICE", "cuda"])
    with pytest.raises(
        ConfigError, match="PRECISION int8: only CPUs support it, not cuda; use auto, bf16 or fp32"
    ):
        build_precision(cfg)


@pytest.mark.skipif(not int8_works(), reason="this processor has no VNNI instructions, or PyTorch no oneDNN")
def test_a_model_in_int8_sees_nearly_the_same_features_and_says_how_exact_they_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    features = {}
    for precision in ("fp32", "int8"):
        torch.manual_seed(0)
        with caplog.at_level(logging.INFO, logger="cmpf"):
            model = build_model(tiny_config(overrides=["MODEL.CMPF.PRECISION", precision]))
        found, _, _ = model.encoders([{"image": random_image()}], with_sam=True)
        features[precision] = (found.clip.dense, found.sam)
    for quantized, exact in zip(features["int8"], features["fp32"], strict=True):
        assert 0 < (quantized - exact).abs().max() < 0.05 * exact.abs().max()
    told = [record.getMessage() for record in caplog.records if "int8" in record.getMessage()]
    assert [line.partition(" features")[0] for line in told] == [
        "clip/cmpf_tiny: int8;",
        "sam/cmpf_tiny: int8;",
    ]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), ("cmpf_tiny", "")),
        (("TEST.ENSEMBLE.SAM_NAME", "", "MODEL.CMPF.SAM.CHECKPOINT", "my.pth"), ("cmpf_tiny", "my.pth")),
        (("TEST.ENSEMBLE.SAM_NAME", "", "MODEL.CMPF.SAM.NAME", "vit_l"), ("vit_l", "")),
        (("TEST.ENSEMBLE.SAM_NAME", "vit_h", "MODEL.CMPF.SAM.CHECKPOINT", "my.pth"), ("vit_h", "")),
        (("TEST.ENSEMBLE.SAM_CHECKPOINT", "masks.pth"), ("cmpf_tiny", "masks.pth")),
    ],
)
def test_masks_are_made_by_the_sam_of_the_features_unless_another_is_named(
    overrides: tuple[str, ...], expected: tuple[str, str]
) -> None:
    assert mask_sam(get_cfg("shapes/cmpf_tiny", overrides)) == expected


def test_a_full_size_model_loads_one_sam_for_features_and_masks() -> None:
    large = get_cfg("coco/cmpf/convnext_large_eval_ade20k", ["TEST.ENSEMBLE.ENABLED", True])
    assert mask_sam(large) == ("vit_b", "")


def test_a_model_without_sam_gets_its_masks_from_the_smallest_published_one() -> None:
    assert mask_sam(get_cfg("shapes/fcclip_tiny", ["TEST.ENSEMBLE.SAM_NAME", ""])) == ("vit_b", "")


def cached(*overrides: object, name: str = "cmpf_tiny") -> ProposalCache:
    """The cache that a config reads."""
    given = ["TEST.ENSEMBLE.SOURCE", "cache", "TEST.ENSEMBLE.CACHE_DIR", "masks", *overrides]
    source = build_encoders(tiny_config(name, given)).mask_source
    assert isinstance(source, CachedMasks)
    return source.cache


def test_cached_masks_need_no_weights_of_the_mask_sam() -> None:
    cache = cached("TEST.ENSEMBLE.SAM_NAME", "vit_h", "TEST.ENSEMBLE.SAM_CHECKPOINT", "")
    assert cache.settings["TEST.ENSEMBLE.SAM_NAME"] == "vit_h"
    assert cache.settings["SAM weights"] is None


def test_cached_masks_must_be_of_the_sam_that_makes_the_features() -> None:
    torch.manual_seed(0)
    random = cached().settings["SAM weights"]
    shipped = cached("MODEL.CMPF.SAM.CHECKPOINT", "", "TEST.ENSEMBLE.SAM_CHECKPOINT", "").settings[
        "SAM weights"
    ]
    assert len(random) == len(shipped) == 64  # SHA-256
    assert random != shipped


def test_every_setting_of_the_masks_is_checked_and_the_command_names_the_datasets() -> None:
    plain = cached()
    assert plain.folder == Path("masks")
    assert "--dataset shapes_val --output masks" in plain.command
    for key, value in {
        **{"POINTS_PER_SIDE": 5, "PRED_IOU_THRESH": 0.1, "STABILITY_THRESH": 0.1, "NMS_THRESH": 0.1},
        **{"MIN_AREA": 7, "MAX_MASKS": 7},
    }.items():
        changed = cached(f"TEST.ENSEMBLE.{key}", value).settings
        assert changed[f"TEST.ENSEMBLE.{key}"] == value != plain.settings[f"TEST.ENSEMBLE.{key}"]
    assert (
        cached("MODEL.MASK_FORMER.SIZE_DIVISIBILITY", 64).settings["MODEL.MASK_FORMER.SIZE_DIVISIBILITY"]
        == 64
    )


def test_the_keys_of_the_masks_reach_the_proposer() -> None:
    keys = {
        "POINTS_PER_SIDE": (5, "points_per_side"),
        "COARSE_POINTS_PER_SIDE": (3, "coarse_points_per_side"),
        "PRED_IOU_THRESH": (0.11, "iou_threshold"),
        "STABILITY_THRESH": (0.12, "stability_threshold"),
        "NMS_THRESH": (0.13, "nms_threshold"),
        "MIN_AREA": (7, "min_area"),
        "MAX_MASKS": (8, "max_masks"),
    }
    overrides = under("TEST.ENSEMBLE", **{key: value for key, (value, _) in keys.items()})
    proposer = build_online_masks(tiny_config(overrides=overrides), None).proposer
    assert [getattr(proposer, name) for _, name in keys.values()] == [value for value, _ in keys.values()]


def test_without_the_ensemble_there_is_no_source_of_masks() -> None:
    assert build_encoders(tiny_config("no_ensemble")).mask_source is None


@pytest.mark.parametrize(
    ("wanted", "expected"), [("auto", None), ("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_a_cpu_computes_in_bf16_only_where_that_is_asked_for(
    wanted: str, expected: torch.dtype | None
) -> None:
    cfg = get_cfg(
        "coco/cmpf/convnext_large_eval_coco", ["MODEL.DEVICE", "cpu", "MODEL.CMPF.PRECISION", wanted]
    )
    assert build_precision(cfg) is expected


def test_features_of_the_shipped_encoders_in_bf16_are_within_what_is_allowed() -> None:
    for part in (
        build_clip(name="cmpf_tiny", pretrained=""),
        build_sam(name="cmpf_tiny", checkpoint=""),
        build_sam(name="vit_t", checkpoint="random"),
    ):
        assert 1e-4 < part.difference_in(torch.bfloat16) < MAX_DIFFERENCE


def test_features_that_are_no_numbers_differ_infinitely() -> None:
    sam = build_sam(name="cmpf_tiny", checkpoint="")
    sam.sam.image_encoder.neck[0].weight.fill_(torch.nan)
    assert sam.difference_in(torch.bfloat16) == float("inf")
    if int8_works():
        assert sam.difference_in(torch.int8) == float("inf")


def test_an_encoder_that_bf16_spoils_goes_back_to_float32_with_a_warning_and_the_other_one_stays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(CLIP, "difference_in", lambda self, dtype: 0.5)
    with caplog.at_level(logging.INFO, logger="cmpf"):
        model = build_model(tiny_config(overrides=["MODEL.CMPF.PRECISION", "bf16"]))
    found, _, _ = model.encoders([{"image": random_image()}], with_sam=True)
    for part in (model.encoders.clip, model.encoders.sam):
        part.set_compute_dtype(torch.float32)
    exact, _, _ = model.encoders([{"image": random_image()}], with_sam=True)
    assert torch.equal(found.clip.dense, exact.clip.dense)
    assert not torch.equal(found.sam, exact.sam)
    told = [record.getMessage() for record in caplog.records if "float32" in record.getMessage()]
    assert told[0] == (
        "clip/cmpf_tiny: float32, because features in bfloat16 differ by 50 % of the largest value; at most 3 % "
        "is allowed"
    )
    assert told[1].startswith("sam/cmpf_tiny: bfloat16; features differ by ")
