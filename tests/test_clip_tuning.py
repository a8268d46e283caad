# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""OVRCOAT, MAFT+ and Mask-Adapter at the tiny size: what is trained and what is not, their losses and checkpoints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_model import random_image, tiny_config, training_sample
from torch import Tensor

import cmpf
from cmpf import weights
from cmpf.config import get_cfg
from cmpf.data import Vocabulary
from cmpf.encoders.clip_factory import build_clip
from cmpf.engine.forward import TrainedPart
from cmpf.engine.seeding import seed_everything
from cmpf.errors import CMPFError, ConfigError, WeightsError
from cmpf.export import export_model
from cmpf.factory import build_model, build_predictor, build_trainer
from cmpf.factory.training import build_configured_optimizer
from cmpf.model import CMPF

TINY_CLIP = ("MODEL.CMPF.CLIP.PRETRAINED", "cmpf_tiny")
MIXED = ("MODEL.CMPF.MASK_ADAPTER.TRAINING", "mixed")
SHORT = (
    "SOLVER.IMS_PER_BATCH", 2,
    "SOLVER.CHECKPOINT_PERIOD", 1,
    "SOLVER.AMP.ENABLED", False,
    "DATASETS.TEST", (),
    "INPUT.IMAGE_SIZE", 128,
    "LOG.PICTURES", 0,
)  # fmt: skip
NAMES = ("ovrcoat_tiny", "maftp_tiny", "mask_adapter_tiny")
TRUNK, SCALE = "encoders.clip.model.visual.trunk.", "encoders.clip.model.logit_scale"
DECODER = ("pixel_decoder.", "decoder.")
TRAINED = {
    "ovrcoat_tiny": (*DECODER, "void_embedding.", f"{TRUNK}stem.", f"{TRUNK}stages.", SCALE),
    "maftp_tiny": (*DECODER, "void_embedding.", f"{TRUNK}stem.", f"{TRUNK}stages.", "naming.text_transfer."),
    "mask_adapter_tiny": ("void_embedding.", "naming.mask_adapter."),
}


def model_of(name: str, *overrides: object) -> CMPF:
    torch.manual_seed(0)
    return build_model(tiny_config(name, [*TINY_CLIP, *overrides]))


def batch(*counts: int) -> list[Any]:
    return [training_sample(seed=seed, targets=count) for seed, count in enumerate(counts)]


def step(model: CMPF, name: str, samples: list[Any]) -> dict[str, Tensor]:
    """One optimizer step; gives the losses."""
    optimizer = build_configured_optimizer(tiny_config(name), model)
    model.train()
    losses = model.losses(samples)
    sum(losses.values()).backward()  # type: ignore[union-attr]
    optimizer.step()
    return losses


@pytest.mark.parametrize("name", NAMES)
def test_what_is_trained_changes_and_nothing_else_to_the_bit(name: str) -> None:
    model = model_of(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for _ in range(
        3 if name == "maftp_tiny" else 1
    ):  # its transfer starts at zero, through which nothing flows back
        step(model, name, batch(3, 2))
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in before if key.startswith(TRAINED[name])}
    assert {n for n, p in model.named_parameters() if p.requires_grad} == changed


def test_stage_two_of_mask_adapter_trains_the_same_with_another_loss() -> None:
    model = model_of("mask_adapter_tiny", *MIXED)
    losses = step(model, "mask_adapter_tiny", batch(3))
    assert losses.keys() == {"loss_ce", "loss_consistency"}
    assert all(p.grad is None for p in model.decoder.parameters())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("overrides", [(), MIXED])
def test_images_without_objects_have_finite_losses(name: str, overrides: tuple[str, ...]) -> None:
    if overrides and name != "mask_adapter_tiny":
        overrides = (
            "MODEL.CMPF.CLIP_LOSSES.CLASS_WEIGHT",
            "0.1",
            "MODEL.CMPF.CLIP_LOSSES.DOUBLE_SOFTMAX",
            "True",
        )
    model = model_of(name, *overrides)
    losses = step(model, name, batch(0, 0))
    assert all(torch.isfinite(loss) for loss in losses.values()), losses
    assert all(torch.isfinite(p).all() for p in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_of_a_batch_have_its_losses_together(name: str) -> None:
    model = model_of(name).train()
    samples = batch(2, 2)
    divisors = model.criterion.normalizers(  # type: ignore[union-attr]
        [s["targets"] for s in samples], queries=model.decoder.num_queries, device=model.device
    )
    own = {"loss_clip", "loss_mask_aware", "loss_representation", "loss_ce"}  # those without random points

    def of(part: list[Any]) -> dict[str, float]:
        return {key: float(loss) for key, loss in model.losses(part, divisors).items() if key in own}

    if name == "ovrcoat_tiny":  # its matches hang on random points
        own = {"loss_ce"}
        model.criterion.matcher = _first_queries  # type: ignore[union-attr,assignment]
    elif name == "maftp_tiny":
        own -= {"loss_ce"}
    with torch.no_grad():
        whole, parts = of(samples), [of([sample]) for sample in samples]
    assert whole
    assert whole.keys() == parts[0].keys()
    for key, value in whole.items():
        assert value == pytest.approx(sum(part[key] for part in parts), rel=2e-3), key


def _first_queries(logits: Tensor, _masks: Tensor, targets: Any, _target_masks: Any) -> Any:
    """Matches each target with the query of its number."""
    from cmpf.losses.matcher import Matches

    counts = [len(target["labels"]) for target in targets]
    image = torch.cat([torch.full((count,), index) for index, count in enumerate(counts)])
    query = torch.cat([torch.arange(count) for count in counts])
    heads = logits.shape[1]
    return Matches(
        image=image, query=query.expand(heads, -1), target=torch.arange(sum(counts)).expand(heads, -1)
    )


def test_set_losses_train_ovrcoats_trunk_and_not_maft_plus() -> None:
    for name, reaches in (("ovrcoat_tiny", True), ("maftp_tiny", False)):
        model = model_of(name).train()
        losses = model.losses(batch(2))
        sum(
            loss
            for key, loss in losses.items()
            if key.startswith(("loss_mask_", "loss_dice")) and "aware" not in key
        ).backward()  # type: ignore[union-attr]
        gradients = [p.grad for part in model.encoders.clip.trained for p in part.parameters()]
        assert any(g is not None and g.abs().sum() > 0 for g in gradients) is reaches


def test_the_teacher_is_the_original_clip_whatever_was_loaded_in_eval_mode_without_gradient() -> None:
    model = model_of("maftp_tiny")
    with torch.no_grad():
        for part in model.encoders.clip.trained:
            for parameter in part.parameters():
                parameter.add_(0.05)
    model.train()
    assert float(model.losses(batch(1))["loss_representation"].detach()) > 0
    teacher = model.tuning._teacher
    assert teacher is not None
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    original = build_clip(name="cmpf_tiny", pretrained="cmpf_tiny")
    assert teacher.weights_hash == original.weights_hash
    assert not any(name.startswith("tuning") for name in model.state_dict())


def test_a_teacher_without_weights_is_refused() -> None:
    model = build_model(tiny_config("maftp_tiny")).train()
    with pytest.raises(
        ConfigError, match=r'REPRESENTATION_WEIGHT compares .*PRETRAINED "" names none; give the tag'
    ):
        model.losses(batch(1))


def test_the_trunk_learns_at_a_tenth_of_the_rate_and_the_first_group_is_the_decoders() -> None:
    model = model_of("ovrcoat_tiny")
    optimizer = build_configured_optimizer(tiny_config("ovrcoat_tiny"), model)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    assert optimizer.param_groups[0]["lr"] == 1e-3
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert rates[id(parameter)] == pytest.approx(1e-4 if name.startswith("encoders.") else 1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_processes_share_the_gradients_of_all_that_is_trained(name: str) -> None:
    model = model_of(name)
    shared = {id(p) for p in TrainedPart(model).parameters() if p.requires_grad}
    assert shared == {id(p) for p in model.parameters() if p.requires_grad}


@pytest.mark.parametrize("name", NAMES)
def test_a_saved_model_gives_the_same_results_and_the_same_next_step(name: str, tmp_path: Path) -> None:
    model = model_of(name)
    step(model, name, batch(2))
    path = tmp_path / "model.safetensors"
    weights.save(model, path, metadata={})
    again = model_of(name)
    report = weights.load(again, path)
    assert bool(report.clip.loaded) is (name != "mask_adapter_tiny")
    sample = [{"image": random_image()}]
    words = Vocabulary.from_words(["red circle", "sky"])
    first, second = (m.eval().infer(sample, words)[0] for m in (model, again))
    assert torch.equal(first["sem_seg"], second["sem_seg"])
    assert torch.equal(first["instances"].scores, second["instances"].scores)
    for key, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[key]), key
    losses = []
    for one in (model, again):
        torch.manual_seed(5)
        losses.append({key: float(loss.detach()) for key, loss in step(one, name, batch(3)).items()})
    assert losses[0] == losses[1]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small ShapeWorld."""
    folder = tmp_path_factory.mktemp("datasets")
    command = [sys.executable, "-m", "cmpf.shapeworld", "--out", str(folder / "shapeworld"), "--jobs", "1"]
    subprocess.run([*command, "--train", "4", "--val", "1"], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("name", "overrides"), [*((name, ()) for name in NAMES), ("mask_adapter_tiny", MIXED)]
)
def test_a_training_that_is_resumed_ends_with_the_same_weights(
    name: str, overrides: tuple[str, ...], world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))
    weights.save(model_of("fcclip_tiny"), tmp_path / "base.safetensors", metadata={})
    base = ("MODEL.CMPF.MASK_ADAPTER.BASE_WEIGHTS", str(tmp_path / "base.safetensors"))
    settings = (*TINY_CLIP, *overrides, *(base if name == "mask_adapter_tiny" else ()), *SHORT)

    def train(folder: str, until: int) -> CMPF:
        cfg = tiny_config(name, [*settings, "OUTPUT_DIR", str(tmp_path / folder), "SOLVER.MAX_ITER", 3])
        seed_everything(0)
        model = build_model(cfg)
        trainer = build_trainer(cfg, model, writers=[])
        trainer.resume()
        trainer.max_iter = until
        trainer.train()
        return model

    whole = train("whole", 3)
    train("parts", 1)
    resumed = train("parts", 3)  # two more steps: the teacher of MAFT+ is built in the first of them
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


def test_a_tuned_model_needs_its_clip() -> None:
    model = model_of("ovrcoat_tiny")
    state = {k: v for k, v in model.trained_state_dict().items() if not k.startswith("encoders.")}
    with pytest.raises(WeightsError, match=r"holds no whole CLIP .* MODEL\.CMPF\.CLIP\.TRAINED trunk"):
        weights.load(model, state)


def test_a_training_of_the_trunk_may_start_from_weights_made_for_its_clip(tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"
    weights.save(model_of("fcclip_tiny"), path, metadata={})
    weights.load(model_of("ovrcoat_tiny"), path)
    other = build_model(tiny_config("ovrcoat_tiny"))  # a CLIP with random weights
    with pytest.raises(WeightsError, match="was trained with the encoders"):
        weights.load(other, path)


def test_mask_adapter_starts_from_its_base_model_and_says_what_a_file_lacks(tmp_path: Path) -> None:
    path = tmp_path / "base.safetensors"
    base = model_of("fcclip_tiny")
    weights.save(base, path, metadata={})
    model = model_of("mask_adapter_tiny")
    with pytest.raises(WeightsError, match=r"no Mask-Adapter: set MODEL\.CMPF\.MASK_EMBEDDING pool"):
        weights.load(model, path)
    weights.load(model, path, may_lack="naming.mask_adapter.")
    assert torch.equal(model.void_embedding.weight, base.void_embedding.weight)
    weights.save(model, path, metadata={})
    with pytest.raises(
        WeightsError, match=r"has a Mask-Adapter: set MODEL\.CMPF\.MASK_EMBEDDING mask_adapter"
    ):
        weights.load(base, path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("MODEL.CMPF.CLIP.NAME", "RN50"), "mask_adapter and MODEL.CMPF.CLIP.NAME RN50 do not go together"),
        (
            ("TEST.ENSEMBLE.PUBLISHED_POOLING", True),
            "does not go together with MODEL.CMPF.MASK_EMBEDDING mask_adapter",
        ),
        (
            ("MODEL.CMPF.CRITERION_NAME", "mine"),
            "mine and MODEL.CMPF.MASK_EMBEDDING mask_adapter do not go together",
        ),
        (("MODEL.CMPF.CLIP.DETACHED", True), "does not go together with MODEL.CMPF.CLIP.TRAINED none"),
        (("MODEL.CMPF.MASK_ADAPTER.MAPS", 0), "expected a whole number from 1 to 256, got 0"),
        (("MODEL.CMPF.MASK_ADAPTER.DIM", 10**6), "expected a whole number from 1 to 8192, got 1000000"),
    ],
)
def test_options_that_do_not_compose_are_refused_by_name(overrides: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        get_cfg("mask_adapter_tiny", overrides)
    assert message in str(caught.value)


def test_text_that_would_not_learn_is_refused() -> None:
    with pytest.raises(
        ConfigError, match=r"content_dependent would not learn: MASK_AWARE_WEIGHT and CLASS_WEIGHT"
    ):
        get_cfg("maftp_tiny", ["MODEL.CMPF.CLIP_LOSSES.MASK_AWARE_WEIGHT", 0])


def test_all_of_it_composes() -> None:
    """Mask-Adapter on a tuned trunk with transferred text, objectness, and SAM's masks."""
    overrides = (
        "MODEL.CMPF.TEXT_TRANSFER", "content_dependent",
        "MODEL.CMPF.CLIP.TRAINED", "trunk",
        "MODEL.MASK_FORMER.TEST.CLIP_OBJECTNESS", 0.5,
        "TEST.ENSEMBLE.ENABLED", True,
        "TEST.ENSEMBLE.SCORE_THRESHOLD", 0.0,
    )  # fmt: skip
    model = model_of("mask_adapter_tiny", *overrides).eval()
    assert not any(
        p.requires_grad for part in model.encoders.clip.backbone.trunk() for p in part.parameters()
    )
    masks = torch.full((1, 64, 96), -3.0)
    masks[0, 10:40, 20:60] = 3.0
    words = Vocabulary.from_words(["unicorn", "sea"])
    sample: Any = {"image": random_image(), "sam_masks": masks}
    [result] = model.infer([sample, sample], words)[:1]
    assert result["sem_seg"].shape == (64, 96)
    assert any(key.startswith("encoders.clip.model.") for key in model.trained_state_dict())


@pytest.mark.parametrize(
    ("name", "option"),
    [
        ("mask_adapter_tiny", "MASK_EMBEDDING mask_adapter"),
        ("maftp_tiny", "TEXT_TRANSFER content_dependent"),
        ("ovrcoat_tiny", "CLIP.TRAINED trunk"),
    ],
)
def test_an_export_names_the_option_that_it_cannot_hold(name: str, option: str, tmp_path: Path) -> None:
    predictor = build_predictor(tiny_config(name))
    with pytest.raises(CMPFError, match=f"{option} and export do not go together"):
        export_model(predictor, tmp_path / "a.pt2", format="torch-export")
    assert list(tmp_path.iterdir()) == []


def test_the_model_card_of_a_tuned_model_says_that_its_clip_is_in_the_folder(tmp_path: Path) -> None:
    predictor = build_predictor(tiny_config("maftp_tiny", TINY_CLIP))
    predictor.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert "the trunk of its CLIP were trained; with that CLIP it has" in card
    assert "switched on: transfer of the text (MAFT+)" in card
    loaded = cmpf.load(tmp_path, device="cpu")
    assert torch.equal(
        loaded.model.encoders.clip.model.text_projection, predictor.model.encoders.clip.model.text_projection
    )
