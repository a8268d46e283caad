# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The LazyConfig names the values of the YAML file, and a loop of Detectron2 trains it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.detectron2_host import needs
from helpers.tiny_model import training_sample

from cmpf.config import config_root, get_cfg
from cmpf.data import get_vocabulary
from cmpf.factory.encoders import build_clip_encoder, build_sam_encoder
from cmpf.factory.model import (
    build_criterion,
    build_decoder,
    build_pixel_decoder,
    build_sam_branch,
    build_settings,
)

needs("cmpf.detectron2")
LazyConfig = needs("detectron2.config").LazyConfig
instantiate = needs("detectron2.config").instantiate
engine = needs("detectron2.engine")


@pytest.fixture
def lazy() -> Any:
    return LazyConfig.load(str(config_root() / "lazy" / "cmpf_convnext_large.py"))


def shapes(module: torch.nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def test_the_parts_are_those_of_the_yaml_file(lazy: Any) -> None:
    scores = ["MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT", "scores"]
    cfg, model = get_cfg("coco/Base-COCO-PanopticSegmentation.yaml", scores), lazy.model
    clip: Any = SimpleNamespace(
        channels=dict(model.pixel_decoder.in_channels), embed_dim=model.decoder.embed_dim
    )
    sam: Any = SimpleNamespace(embed_channels=model.sam_branch.in_channels)
    for name, other in (
        ("pixel_decoder", build_pixel_decoder(cfg, clip)),
        ("sam_branch", build_sam_branch(cfg, sam)),
        ("decoder", build_decoder(cfg, clip, sam)),
    ):
        assert shapes(instantiate(model[name])) == shapes(other), name
    settings, criterion = instantiate(model.settings), instantiate(model.criterion)
    assert settings == build_settings(cfg)
    other = build_criterion(cfg, get_vocabulary(cfg.DATASETS.TRAIN[0]).num_classes)
    plain = [
        {k: v for k, v in vars(c).items() if not k.startswith("_") and k != "matcher"}
        for c in (criterion, other)
    ]
    assert plain[0] == plain[1]
    assert vars(criterion.matcher) == vars(other.matcher)
    encoders = model.encoders
    assert (encoders.clip.name, encoders.clip.pretrained) == (
        cfg.MODEL.CMPF.CLIP.NAME,
        cfg.MODEL.CMPF.CLIP.PRETRAINED,
    )
    assert (encoders.sam.name, encoders.sam.checkpoint) == (
        cfg.MODEL.CMPF.SAM.NAME,
        cfg.MODEL.CMPF.SAM.CHECKPOINT,
    )
    assert (tuple(encoders.pixel_mean), tuple(encoders.pixel_std)) == (
        cfg.MODEL.PIXEL_MEAN,
        cfg.MODEL.PIXEL_STD,
    )
    solver, params = cfg.SOLVER, lazy.optimizer.params
    assert (lazy.train.max_iter, params.lr, params.weight_decay) == (
        solver.MAX_ITER, solver.BASE_LR, solver.WEIGHT_DECAY
    )  # fmt: skip
    assert lazy.optimizer.clip_norm == solver.CLIP_GRADIENTS.CLIP_VALUE
    assert tuple(lazy.lr_multiplier.scheduler.milestones) == solver.STEPS


def test_a_loop_of_detectron2_trains_it_with_tiny_encoders(lazy: Any) -> None:
    tiny, model = get_cfg("cmpf_tiny"), lazy.model
    clip, sam = build_clip_encoder(tiny), build_sam_encoder(tiny)
    assert sam is not None
    model.encoders.clip, model.encoders.sam = clip, sam
    model.pixel_decoder.in_channels = clip.channels
    model.sam_branch.in_channels = model.decoder.sam_channels = sam.embed_channels
    model.decoder.embed_dim, model.decoder.queries, model.decoder.layers = clip.embed_dim, 5, 6
    model.pixel_decoder.layers = model.sam_branch.layers = 1
    model.train_vocabulary.name = "shapes_train"
    model.criterion.num_classes = get_vocabulary("shapes_train").num_classes
    model.criterion.num_points = model.criterion.matcher.num_points = 64
    built = instantiate(model).train()
    lazy.optimizer.params.model = built
    optimizer = instantiate(lazy.optimizer)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == sum(
        p.requires_grad for p in built.parameters()
    )
    before = built.void_embedding.weight.detach().clone()
    trainer = engine.SimpleTrainer(built, [[training_sample(seed=0)]], optimizer)
    trainer.train(0, 1)
    assert trainer.storage.history("total_loss").latest() > 0
    assert trainer.storage.history("grad_norm").latest() > 0
    # AdamW's first step is the learning rate, 1e-4, in each direction that has a gradient.
    assert (built.void_embedding.weight - before).abs().max().item() == pytest.approx(1e-4, rel=0.1)
    (result,) = built.eval()([{"image": torch.zeros(3, 64, 64)}])
    assert set(result) == {"sem_seg", "panoptic_seg", "instances"}
