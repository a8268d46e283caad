# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Parts of CMPF in Detectron2's registries, and parts from there in a CMPF model."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.detectron2_host import host_config, needs

from cmpf.errors import ConfigError
from cmpf.modeling.pixel_decoder import PixelDecoder
from cmpf.modeling.transformer_decoder import TransformerDecoder

d2 = needs("cmpf.detectron2")
modeling = needs("detectron2.modeling")
ShapeSpec = needs("detectron2.layers").ShapeSpec


class OwnPixelDecoder(PixelDecoder):
    def __init__(self, cfg: Any, input_shape: Any) -> None:
        head = cfg.MODEL.SEM_SEG_HEAD
        super().__init__(
            in_channels={name: shape.channels for name, shape in input_shape.items()},
            dim=head.CONVS_DIM,
            mask_dim=head.MASK_DIM,
            heads=1,
            points=1,
            layers=1,
            dim_feedforward=8,
            norm_groups=head.NORM_GROUPS,
        )


class OwnTransformerDecoder(TransformerDecoder):
    def __init__(self, cfg: Any, in_channels: int) -> None:
        former = cfg.MODEL.MASK_FORMER
        super().__init__(
            in_channels=in_channels,
            dim=former.HIDDEN_DIM,
            mask_dim=cfg.MODEL.SEM_SEG_HEAD.MASK_DIM,
            embed_dim=128,
            queries=former.NUM_OBJECT_QUERIES,
            heads=1,
            layers=1,
            dim_feedforward=8,
            sam_channels=0,
            sam_feature_channels=0,
            query_injector=None,
            feature_injector=None,
            keep_positions=False,
        )


def changed(**values: Any) -> Any:
    """A configuration with other values, by dotted key with _ _ for the dot."""
    cfg = host_config().clone()
    cfg.defrost()
    cfg.merge_from_list([part for key, value in values.items() for part in (key.replace("__", "."), value)])
    return cfg


def test_parts_that_detectron2_knows_are_built_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    from cmpf import registry

    monkeypatch.setattr(registry, "_parts", {slot: dict(parts) for slot, parts in registry._parts.items()})
    heads, decoders = modeling.SEM_SEG_HEADS_REGISTRY, d2.TRANSFORMER_DECODER_REGISTRY
    for place, part in ((heads, OwnPixelDecoder), (decoders, OwnTransformerDecoder)):
        monkeypatch.setattr(place, "_obj_map", dict(place._obj_map))
        place.register(part)
    cfg = changed(
        MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME="OwnPixelDecoder",
        MODEL__SEM_SEG_HEAD__TRANSFORMER_DECODER_NAME="OwnTransformerDecoder",
    )
    for _ in range(2):  # the second model finds what the first has entered
        model = modeling.build_model(cfg).eval()
        assert type(model.pixel_decoder) is OwnPixelDecoder
        assert type(model.decoder) is OwnTransformerDecoder
    result = model([{"image": torch.zeros(3, 64, 64)}])[0]
    assert result["panoptic_seg"][0].shape == (64, 64)


def test_a_backbone_of_ones_own_is_the_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    from cmpf import registry

    monkeypatch.setattr(registry, "_parts", {slot: dict(parts) for slot, parts in registry._parts.items()})
    place = modeling.BACKBONE_REGISTRY
    monkeypatch.setattr(place, "_obj_map", dict(place._obj_map))
    made = []

    def own_backbone(cfg: Any, input_shape: Any) -> Any:
        made.append(d2.FrozenCLIP(cfg, input_shape))
        return made[0]

    place.register(own_backbone)
    model = modeling.build_model(changed(MODEL__BACKBONE__NAME="own_backbone"))
    assert model.encoders.clip is made[0].clip


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"MODEL__BACKBONE__NAME": "build_resnet_backbone"},
            r"BACKBONE\.NAME build_resnet_backbone: gives a ResNet",
        ),
        (
            {"MODEL__SEM_SEG_HEAD__NAME": "SemSegFPNHead"},
            r"SEM_SEG_HEAD\.NAME SemSegFPNHead: a CMPF model has CMPFH",
        ),
        (
            {"MODEL__SEM_SEG_HEAD__PIXEL_DECODER_NAME": "SemSegFPN"},
            r"'SemSegFPN' is unknown.*Registered: deformable",
        ),
    ],
)
def test_what_a_model_cannot_be_built_of_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        modeling.build_model(changed(**values))


def test_the_backbone_and_the_head_work_in_a_model_of_ones_own() -> None:
    cfg = host_config()
    assert (cfg.MODEL.BACKBONE.NAME, cfg.MODEL.SEM_SEG_HEAD.NAME) == ("FrozenCLIP", "CMPFHead")
    backbone = modeling.build_backbone(cfg).eval()
    shapes = backbone.output_shape()
    maps = backbone(torch.zeros(1, 3, 64, 96))
    for name, stride in (("res2", 4), ("res3", 8), ("res4", 16), ("res5", 32)):
        assert maps[name].shape == (1, shapes[name].channels, 64 // stride, 96 // stride)
        assert shapes[name].stride == stride
    head = modeling.build_sem_seg_head(cfg, shapes).eval()
    model = modeling.build_model(cfg).eval()
    for part in ("pixel_decoder", "decoder"):
        getattr(head, part).load_state_dict(getattr(model, part).state_dict())
    words = model._with_void(model.class_embeddings(model.train_vocabulary))
    output = head(maps, words)
    assert output["pred_logits"].shape[-1] == model.train_vocabulary.num_classes + 1
    assert output["pred_masks"].shape[-2:] == (16, 24)
    with pytest.raises(ConfigError, match=r'CMPFHead: injectors are on, and input_shape has no "sam"'):
        modeling.build_sem_seg_head(host_config(name="cmpf_tiny"), shapes)
