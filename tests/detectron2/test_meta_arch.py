# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.detectron2_host import SMALL, host_config, host_model, needs
from helpers.tiny_model import random_image, tiny_model, training_sample

from cmpf import model as native_model
from cmpf.data import Vocabulary, get_vocabulary
from cmpf.errors import VocabularyError, WeightsError

d2 = needs("cmpf.detectron2")
structures = needs("detectron2.structures")
modeling = needs("detectron2.modeling")
EVERYTHING = ("MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT", "scores", "TEST.ENSEMBLE.ENABLED", True)


@pytest.fixture(scope="module")
def native() -> native_model.CMPF:
    return tiny_model("cmpf_tiny", [*SMALL, *EVERYTHING])


@pytest.fixture(scope="module")
def host() -> Any:
    return host_model(EVERYTHING, name="cmpf_tiny")


def test_detectron2_finds_the_model_by_its_name(host: Any) -> None:
    cfg = host_config()
    assert cfg.MODEL.META_ARCHITECTURE == "CMPF"
    assert modeling.META_ARCH_REGISTRY.get("CMPF") is d2.CMPF
    for older in ("FrozenSeg", "FCCLIP"):
        assert issubclass(modeling.META_ARCH_REGISTRY.get(older), d2.CMPF)
        assert older == host_config(["MODEL.META_ARCHITECTURE", older]).MODEL.META_ARCHITECTURE
    assert type(host) is d2.CMPF


def test_equal_seeds_give_the_native_models_weights(native: native_model.CMPF, host: Any) -> None:
    ours, theirs = native.trained_state_dict(), host.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@torch.no_grad()
def test_results_are_those_of_the_native_model(native: native_model.CMPF, host: Any) -> None:
    batch = [
        {"image": random_image(64, 96), "height": 50, "width": 70},
        {"image": random_image(48, 64, seed=1)},
    ]
    words = get_vocabulary("shapes_val")
    for ours, theirs in zip(native.infer(batch, words), host(batch, words), strict=True):
        assert torch.equal(ours["sem_seg"], theirs["sem_seg"])
        assert theirs["sem_seg"].shape[0] == words.num_classes
        assert torch.equal(ours["panoptic_seg"][0], theirs["panoptic_seg"][0])
        assert ours["panoptic_seg"][1] == theirs["panoptic_seg"][1]
        for field in ("pred_masks", "scores", "pred_classes"):
            assert torch.equal(getattr(ours["instances"], field), getattr(theirs["instances"], field))
        assert torch.equal(ours["instances"].pred_boxes, theirs["instances"].pred_boxes.tensor)


def test_losses_are_those_of_the_native_model(native: native_model.CMPF, host: Any) -> None:
    samples = [training_sample(seed=0), training_sample(seed=1)]
    mapped = []
    for sample in samples:
        objects = structures.Instances(tuple(sample["image"].shape[-2:]))
        objects.gt_classes = sample["targets"]["labels"]
        objects.gt_masks = structures.BitMasks(sample["targets"]["masks"])
        mapped.append({"image": sample["image"], "instances": objects})
    torch.manual_seed(3)  # of the points at which losses are taken
    ours = native.train()(samples)
    torch.manual_seed(3)
    theirs = host.train()(mapped)
    native.eval()
    host.eval()
    assert isinstance(ours, dict)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@torch.no_grad()
def test_a_sample_names_the_dataset_whose_classes_are_looked_for(host: Any) -> None:
    image = {"image": random_image(64, 64)}
    named, plain = host([{**image, "vocabulary": "shapes_val"}]), host([image])
    assert named[0]["sem_seg"].shape[0] == get_vocabulary("shapes_val").num_classes
    assert plain[0]["sem_seg"].shape[0] == get_vocabulary("shapes_train").num_classes
    own = Vocabulary(classes=[["red circle"], ["sky"]])
    assert host([{**image, "vocabulary": "shapes_val"}], own)[0]["sem_seg"].shape[0] == 2


def test_a_batch_is_of_one_dataset(host: Any) -> None:
    image = random_image(64, 64)
    batch = [{"image": image, "vocabulary": "shapes_val"}, {"image": image, "vocabulary": "shapes_train"}]
    with pytest.raises(VocabularyError, match="samples of shapes_train and shapes_val"):
        host(batch)


@torch.no_grad()
def test_bgr_input_gives_the_results_of_rgb(host: Any) -> None:
    image = random_image(64, 64)
    rgb = host([{"image": image}])[0]["sem_seg"]
    host.bgr = True
    try:
        assert torch.equal(host([{"image": image.flip(0)}])[0]["sem_seg"], rgb)
        assert not torch.equal(host([{"image": image}])[0]["sem_seg"], rgb)
    finally:
        host.bgr = False


def test_input_format_bgr_is_heard() -> None:
    cfg = host_config().clone()
    cfg.defrost()
    cfg.INPUT.FORMAT = "BGR"
    assert d2.CMPF(cfg).bgr


def test_the_state_holds_what_is_trained_and_loads_without_the_rest(host: Any) -> None:
    state = host.state_dict()
    assert set(state) == {name for name, p in host.named_parameters() if p.requires_grad}
    assert host.load_state_dict(state, strict=True).missing_keys == []
    lacking = {name: value for name, value in state.items() if name != "void_embedding.weight"}
    with pytest.raises(WeightsError, match=r"1 missing in the file: void_embedding\.weight"):
        host.load_state_dict(lacking, strict=False)


@pytest.mark.parametrize(
    "overrides",
    [("MODEL.CMPF.CLIP.TRAINED", "trunk"), ("MODEL.CMPF.MASK_EMBEDDING", "mask_adapter")],
    ids=["a CLIP that checkpoints bring", "adapter maps"],
)
def test_options_of_the_family_are_those_of_the_native_model(overrides: tuple[object, ...]) -> None:
    host, native = host_model(overrides), tiny_model("fcclip_tiny", [*SMALL, *overrides])
    ours = native.trained_state_dict()
    assert list(host.state_dict()) == list(ours)
    assert list(host.trained_state_dict()) == list(ours)
    zeros = {name: torch.zeros_like(value) for name, value in ours.items()}
    assert host.load_state_dict(zeros, strict=True).missing_keys == []
    assert not any(value.any() for value in host.state_dict().values())


def test_classes_of_a_dataset_that_only_detectron2_knows_can_be_trained() -> None:
    data = needs("detectron2.data")
    data.MetadataCatalog.get("fruit_train").set(thing_classes=["apple", "pear"])
    cfg = host_config().clone()
    cfg.defrost()
    cfg.DATASETS.TRAIN = ("fruit_train",)
    model = d2.CMPF(cfg)
    data.MetadataCatalog.pop("fruit_train")
    assert model.train_vocabulary.names == ("apple", "pear")
    assert model.criterion.num_classes == 2
