# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The shipped configurations, and the tool that checks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.scripts import script

from cmpf.config import get_cfg
from cmpf.data import get_spec
from cmpf.encoders import clip_factory
from cmpf.factory.model import evaluation_size

check_configs = script("check_configs")

STREET, USUAL = (1024, 2560), (800, 1333)
# Target -> dataset, tasks with ground truth (panoptic, instance, semantic), shorter and longest longer side.
TARGETS: dict[str, tuple[str, str, tuple[int, int]]] = {
    "ade20k": ("openvocab_ade20k_panoptic_val", "pis", USUAL),
    "a847": ("openvocab_ade20k_full_sem_seg_val", "s", USUAL),
    "cityscapes": ("openvocab_cityscapes_fine_panoptic_val", "pis", STREET),
    "mapillary_vistas": ("openvocab_mapillary_vistas_panoptic_val", "ps", STREET),
    "bdd_panop": ("bdd10k_40_panoptic_val", "p", USUAL),
    "bdd_sem": ("bdd10k_val_sem_seg", "s", USUAL),
    "pc459": ("openvocab_pascal_ctx459_sem_seg_val", "s", USUAL),
    "pc59": ("openvocab_pascal_ctx59_sem_seg_val", "s", USUAL),
    "pas21": ("openvocab_pascal21_sem_seg_val", "s", USUAL),
    "pas20": ("openvocab_pascal20_sem_seg_val", "s", USUAL),
    "lvis": ("openvocab_lvis_v1_val", "i", USUAL),
    "coco": ("openvocab_coco_2017_val_panoptic_with_sem_seg", "pis", USUAL),
}
BEST = {"p": "panoptic/PQ", "s": "sem_seg/mIoU", "i": "segm/AP"}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("model", ["convnext_large", "r50x64"])
def test_each_target_has_its_dataset_tasks_and_size(model: str, target: str) -> None:
    name, tasks, size = TARGETS[target]
    cfg = get_cfg(f"coco/cmpf/{model}_eval_{target}.yaml")
    test = cfg.MODEL.MASK_FORMER.TEST
    assert (name,) == cfg.DATASETS.TEST
    assert cfg.DATASETS.TRAIN == ("openvocab_coco_2017_train_panoptic_with_sem_seg",)
    assert tuple(t in tasks for t in "pis") == (test.PANOPTIC_ON, test.INSTANCE_ON, test.SEMANTIC_ON)
    assert evaluation_size(cfg, get_spec(name)) == size
    assert BEST[tasks[0]] == cfg.TEST.BEST_METRIC
    assert (
        cfg.TEST.DETECTIONS_PER_IMAGE == 100
    )  # LVIS' evaluator would take 300; published models give it 100
    # 0.4 is published for this dataset alone.
    assert (0.4 if target == "bdd_panop" else 0.0) == test.OBJECT_MASK_THRESHOLD
    assert test.OVERLAP_THRESHOLD == 0.8
    ours = cfg.MODEL.CMPF
    assert (ours.GEOMETRIC_ENSEMBLE_ALPHA, ours.GEOMETRIC_ENSEMBLE_BETA) == (0.4, 0.8)
    assert {
        "convnext_large": ("convnext_large_d_320", "laion2b_s29b_b131k_ft_soup", False, "vit_b"),
        "r50x64": ("RN50x64-quickgelu", "openai", True, "vit_b"),
    }[model] == (ours.CLIP.NAME, ours.CLIP.PRETRAINED, ours.ENSEMBLE_ON_VALID_MASK, ours.SAM.NAME)


def ablation(name: str) -> tuple[Any, ...]:
    """SAM, injectors and their levels, mask SAM of an ablation's configuration."""
    cfg = get_cfg(f"ablation/{name}.yaml")
    query, feature = cfg.MODEL.CMPF.QUERY_INJECTOR, cfg.MODEL.CMPF.FEATURE_INJECTOR
    masks = cfg.TEST.ENSEMBLE.SAM_NAME if cfg.TEST.ENSEMBLE.ENABLED else ""
    return (
        cfg.MODEL.CMPF.SAM.NAME,
        query.LEVEL if query.ENABLED else None,
        feature.LEVEL if feature.ENABLED else None,
        masks,
    )


ABLATIONS = {
    "table4_baseline": ("", None, None, ""),
    "table4_query_injector": ("vit_b", 2, None, ""),
    "table4_feature_injector": ("vit_b", None, 0, ""),
    "table4_both_injectors": ("vit_b", 2, 0, ""),
    "table4_openseg_ensemble": ("vit_b", 2, 0, "vit_h"),
    "table5_published": ("vit_b", 2, 0, ""),
    "table5_query_stride32": ("vit_b", 0, 0, ""),
    "table5_query_stride16": ("vit_b", 1, 0, ""),
    "table5_feature_stride16": ("vit_b", 2, 1, ""),
    "table5_feature_stride8": ("vit_b", 2, 2, ""),
    **{f"table9_sam_vit_{size}": (f"vit_{size}", 2, 0, "") for size in "tblh"},
}


def test_each_row_of_the_ablation_tables_changes_what_it_is_named_after() -> None:
    assert {name: ablation(name) for name in ABLATIONS} == ABLATIONS
    shipped = {path.stem for path in check_configs.shipped_configs() if path.parent.name == "ablation"}
    assert shipped == {*ABLATIONS, "Base-ablation"}


METHODS = {
    "fcclip": {"convnext_large", "r50", "r101", "r50x4", "r50x16", "r50x64"},
    "mask_adapter": {"fcclip_convnext_large", "maftp_convnext_base", "maftp_convnext_large"},
    "maftp": {"convnext_base", "convnext_large", "convnext_large_panoptic"},
    "ovrcoat": {"convnext_large"},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_model_of_a_method_has_a_configuration_for_every_dataset(method: str) -> None:
    def tests_of(folder: str) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for path in (check_configs.config_root() / "coco" / folder).glob("*_eval_*.yaml"):
            model, _, dataset = path.stem.partition("_eval_")
            found.setdefault(model, set()).add(dataset)
        return found

    datasets = tests_of("cmpf")["convnext_large"]
    assert tests_of(method) == dict.fromkeys(METHODS[method], datasets)


def test_what_makes_each_method_is_in_its_configuration() -> None:
    def of(name: str) -> tuple[Any, ...]:
        cfg = get_cfg(f"coco/{name}_eval_ade20k.yaml")
        ours, test = cfg.MODEL.CMPF, cfg.MODEL.MASK_FORMER.TEST
        weights = (ours.GEOMETRIC_ENSEMBLE_ALPHA, ours.GEOMETRIC_ENSEMBLE_BETA, test.CLIP_OBJECTNESS)
        return (ours.MASK_EMBEDDING, ours.TEXT_TRANSFER, ours.DECODER_CLASSES, ours.CLIP.TRAINED, *weights)

    assert of("fcclip/r50x4") == ("pool", "none", True, "none", 0.4, 0.8, 0.0)
    assert of("mask_adapter/fcclip_convnext_large") == ("mask_adapter", "none", True, "none", 0.7, 0.9, 0.0)
    assert of("maftp/convnext_large_panoptic")[:4] == ("pool", "content_dependent", False, "trunk")
    assert of("mask_adapter/maftp_convnext_base")[:4] == ("mask_adapter", "content_dependent", True, "trunk")
    assert of("ovrcoat/convnext_large") == ("pool", "none", True, "trunk", 0.4, 0.8, 0.5)
    forms = {
        name: get_cfg(f"coco/maftp/{name}_eval_ade20k.yaml").MODEL.CMPF.CONTENT_TRANSFER.FORM
        for name in METHODS["maftp"]
    }
    assert forms == {
        "convnext_base": "post_norm",
        "convnext_large": "post_norm",
        "convnext_large_panoptic": "residual",
    }


def test_every_output_folder_belongs_to_one_configuration() -> None:
    files = [path for path in check_configs.shipped_configs() if not path.name.startswith("Base-")]
    folders = [get_cfg(path).OUTPUT_DIR for path in files]
    assert len(set(folders)) == len(folders) >= 45


def test_every_shipped_configuration_is_well_and_nothing_is_downloaded(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clip_factory, "_weights_file", lambda *_: pytest.fail("weights were looked for"))
    code = check_configs.main([])
    captured = capsys.readouterr()
    assert captured.err == ""
    assert code == 0
    lines = captured.out.splitlines()
    assert len(lines) == len(check_configs.shipped_configs()) + 1
    # As published 26,497,287 less 134 class weights of the criterion, and less what two more levels of the SAM
    # branch have: 6 layers x 8 heads x 2 levels x 4 points x 3 values x 257, and 2 embeddings of 256.
    number = 26_497_287 - 134 - 6 * 8 * 2 * 4 * 3 * 257 - 2 * 256
    assert f"configs/coco/cmpf/convnext_large_eval_lvis.yaml: {number:,} trained parameters" in lines


def test_all_issues_are_told_and_the_other_files_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = f"_BASE_: {check_configs.config_root() / 'shapes' / 'cmpf_tiny.yaml'}\n"
    texts = {
        "key": "MODEL:\n  MASK_FORMR:\n    NHEADS: 4\n",
        "dataset": "DATASETS:\n  TEST: [shapes_vall]\n",
        "sam": "MODEL:\n  CMPF:\n    SAM:\n      NAME: vit_x\n",
        "clip": "MODEL:\n  CMPF:\n    CLIP:\n      NAME: ViT-B-32\n      PRETRAINED: openai\n",
        "tag": "MODEL:\n  CMPF:\n    CLIP:\n      NAME: RN50\n      PRETRAINED: opnai\n",
        "good": "SEED: 3\n",
    }
    for name, text in texts.items():
        (tmp_path / f"{name}.yaml").write_text(base + text)
    assert check_configs.main([str(tmp_path / f"{name}.yaml") for name in texts]) == 1
    captured = capsys.readouterr()
    told = dict(line.split(".yaml: ", 1) for line in captured.err.splitlines())
    assert {Path(name).name for name in told} == {"key", "dataset", "sam", "clip", "tag"}
    by_name = {Path(name).name: message for name, message in told.items()}
    assert "did you mean MODEL.MASK_FORMER.NHEADS?" in by_name["key"]
    assert "did you mean shapes_val?" in by_name["dataset"]
    assert "SAM 'vit_x' is unknown" in by_name["sam"]
    assert "must be a ConvNeXt or a ModifiedResNet" in by_name["clip"]
    assert "'opnai' is none of OpenCLIP's weights for RN50: openai" in by_name["tag"]
    assert "good.yaml: 713,449 trained parameters" in captured.out
    assert captured.out.splitlines()[-1] == "6 configurations, 5 with issues"


def test_issues_of_the_code_are_told_with_their_kind(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_configs, "_check_clip_weights", lambda _: 1 // 0)
    assert check_configs.main([str(check_configs.config_root() / "shapes" / "cmpf_tiny.yaml")]) == 1
    assert "cmpf_tiny.yaml: ZeroDivisionError: " in capsys.readouterr().err


def test_configurations_that_differ_in_testing_only_share_a_network() -> None:
    checker = check_configs.Checker()
    for name in ("cmpf_tiny", "no_ensemble", "objectness_half"):
        checker.trained_parameters(check_configs.config_root() / "shapes" / f"{name}.yaml")
    assert len(checker._counts) == 2  # cmpf_tiny has a mask SAM besides
