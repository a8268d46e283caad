# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""FC-CLIP, Mask-Adapter, MAFT+ and OVRCOAT with seeded weights against outputs of their published arithmetic."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from golden.test_g1 import CLASSES, TRAINING, WORDS
from helpers.golden import FOLDER, distance, golden_image, nearest, read_names, seeded
from torch import Tensor

from cmpf import weights
from cmpf.config import get_cfg
from cmpf.data import Vocabulary
from cmpf.factory import build_model
from cmpf.inference import InferenceSettings, MaskRows, instance_inference
from cmpf.model import CMPF
from cmpf.weights import LoadReport, split, to_published

TOLERANCE = 1e-3  # of each array's spread
CONFIGS = {
    "fc1": "coco/fcclip/convnext_large_eval_ade20k",
    "ma1": "coco/mask_adapter/fcclip_convnext_large_eval_ade20k",
    "mp1": "coco/maftp/convnext_large_panoptic_eval_ade20k",
    "oc1": "coco/ovrcoat/convnext_large_eval_ade20k",
}
OVERRIDES = (
    "MODEL.CMPF.PRECISION", "fp32",
    "MODEL.DEVICE", "cpu",
    "MODEL.CMPF.CLIP.NAME", "convnext_base",
    "MODEL.CMPF.CLIP.PRETRAINED", "",
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 50,
    "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD", 0.0,
    "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", 0.0,
    "MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT", "scores",
)  # fmt: skip

pytestmark = pytest.mark.slow


@cache
def entry(name: str, shape: tuple[int, ...]) -> Tensor:
    """Cases share most names, and with them the numbers."""
    return seeded(name, shape)


@dataclass
class Case:
    """What a published model computed, and what this one does, by the names of the golden file."""

    name: str
    model: CMPF
    report: LoadReport
    expected: dict[str, Any]
    found: dict[str, Any]


@pytest.fixture(scope="module", params=CONFIGS)
def case(request: pytest.FixtureRequest) -> Case:
    name = request.param
    with np.load(FOLDER / f"{name}.npz") as arrays:
        expected = dict(arrays)
    model = build_model(get_cfg(CONFIGS[name], OVERRIDES)).eval()
    model.train_vocabulary = Vocabulary(classes=TRAINING)
    state = {key: entry(key, tuple(shape)) for key, shape in read_names(f"{name}_names.json.gz").items()}
    report = weights.load(model, state)
    assert {**to_published(split(state))}.keys() == {
        key for key in state if key not in report.ignored
    }  # and back
    return Case(name, model, report, expected, run(model))


def run(model: CMPF) -> dict[str, Any]:
    """One pass over the image."""
    found: dict[str, Any] = {}

    def keep(name: str) -> Any:
        def hook(_module: object, _inputs: object, output: Any) -> None:
            found[name] = output

        return hook

    naming, ensemble = model.naming, model.class_ensemble
    hooks = [
        model.decoder.register_forward_pre_hook(lambda _m, a, k: (a, {**k, "aux": True}), with_kwargs=True),
        model.decoder.register_forward_hook(keep("outputs")),
        naming.register_forward_hook(keep("naming")),
    ]
    for part, name in ((naming.mask_adapter, "maps"), (naming.text_transfer, "text_cdt")):
        if part is not None:
            hooks.append(part.register_forward_hook(keep(name)))
            hooks.append(part.register_forward_pre_hook(lambda _m, a: found.update(projected=a)))

    def fused(*arguments: Any, **options: Any) -> Tensor:
        found["log_cls"] = ensemble(*arguments, **options)
        return found["log_cls"]

    model.class_ensemble = fused
    with torch.inference_mode():
        found["text"] = model.class_embeddings(WORDS).matrix
        [found["result"]] = model.infer([{"image": golden_image(), "height": 240, "width": 312}], WORDS)
    model.class_ensemble = ensemble
    for handle in hooks:
        handle.remove()
    return found


def test_every_weight_comes_from_its_published_name(case: Case) -> None:
    names = set(read_names(f"{case.name}_names.json.gz"))
    second = tuple(name for name in names if name.startswith(("frozen_backbone.", "backbone_t.")))
    assert len(second) == (493 if case.name in ("mp1", "oc1") else 0)
    assert set(case.report.ignored) == names & {*second, "criterion.empty_weight"}
    assert len(case.report.loaded) + len(case.report.clip.loaded) == len(names - set(case.report.ignored))
    if second:
        assert f"493 of {second[0].partition('.')[0]}.*" in str(case.report)
    assert torch.equal(case.model.encoders.clip.model.text_projection, entry(
        "backbone.clip_model.text_projection", (512, 512)))  # fmt: skip


def test_the_decoder_agrees(case: Case) -> None:
    outputs, expected = case.found["outputs"], case.expected
    assert distance(case.found["text"], expected["text"]) < TOLERANCE
    assert distance(outputs["aux_outputs"][0]["pred_logits"], expected["aux0"]) < TOLERANCE
    assert distance(outputs["pred_logits"], expected["pred_logits"]) < TOLERANCE
    assert distance(nearest(outputs["aux_outputs"][4]["pred_masks"], (16, 16)), expected["aux4"]) < TOLERANCE
    assert distance(nearest(outputs["pred_masks"], (16, 16)), expected["pred_masks"]) < TOLERANCE


def test_clips_names_of_masks_agree(case: Case) -> None:
    logits, _ = case.found["naming"]
    assert distance(logits, case.expected["clip_logits"][..., :-1]) < TOLERANCE
    if "maps" in case.expected:
        assert distance(case.found["maps"].flatten(1, 2), case.expected["maps"]) < TOLERANCE
        assert distance(case.found["projected"][0], case.expected["adapter_in"]) < TOLERANCE
    if "text_cdt" in case.expected:
        assert distance(case.found["text_cdt"], case.expected["text_cdt"][:, :-1]) < TOLERANCE
        assert distance(case.found["projected"][1], case.expected["img_feat"]) < TOLERANCE


def test_class_probabilities_and_void_agree(case: Case) -> None:
    probabilities = case.found["log_cls"][0].softmax(dim=-1)
    assert distance(probabilities, case.expected["final_cls"]) < TOLERANCE
    assert distance(probabilities[:, -1], case.expected["void"]) < TOLERANCE


def test_semantic_scores_agree(case: Case) -> None:
    scores = case.found["result"]["sem_seg"]
    assert list(scores.shape) == case.expected["0.sem_shape"].tolist() == [8, 240, 312]
    assert distance(scores.mean(dim=(1, 2)), case.expected["0.sem_mean"]) < TOLERANCE
    assert distance(scores.std(dim=(1, 2)), case.expected["0.sem_std"]) < TOLERANCE
    assert distance(nearest(scores[None], (12, 16))[0], case.expected["0.sem_grid"]) < TOLERANCE


def test_panoptic_segments_agree(case: Case) -> None:
    ids, segments = case.found["result"]["panoptic_seg"]
    assert np.array_equal(ids[::8, ::8].numpy(), case.expected["0.pan_ids"])
    found = [[s["id"], int(s["isthing"]), s["category_id"]] for s in segments]
    assert found == case.expected["0.pan_info"].tolist()


def test_scores_of_all_pairs_of_query_and_thing_agree(case: Case) -> None:
    settings: InferenceSettings = case.model.settings
    sizes = {"padded": (320, 416), "unpadded": (320, 416), "output": (240, 312)}
    masks = MaskRows(case.found["outputs"]["pred_masks"][0], **sizes)
    found = instance_inference(
        case.found["log_cls"][0],
        masks,
        topk=50 * len(CLASSES),
        is_thing=torch.tensor(WORDS.is_thing),
        mask_score=settings.instance_mask_score,
    )
    assert distance(found.scores, case.expected["0.insall_scores"]) < TOLERANCE
    agree = (found.pred_classes.numpy() == case.expected["0.insall_classes"]).mean()
    assert agree > 0.9  # equal scores may change places
    area = found.pred_masks.flatten(1).sum(dim=1).numpy()
    assert distance(np.sort(area), np.sort(case.expected["0.insall_area"])) < TOLERANCE
    assert len(case.found["result"]["instances"]) == len(case.expected["0.ins_scores"]) == 0
