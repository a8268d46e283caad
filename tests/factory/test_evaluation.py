# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import logging
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.cityscapes_truth import LABEL_IDS
from helpers.prepared_trees import write_prepared_trees
from helpers.tiny_model import tiny_config, tiny_model
from PIL import Image

from cmpf.data import get_dataset, get_vocabulary
from cmpf.errors import ConfigError, DatasetError, EvaluationError
from cmpf.evaluation import PanopticEvaluator, evaluate
from cmpf.factory import build_evaluation, build_test_loader
from cmpf.factory.evaluation import build_evaluators
from cmpf.formats.label_map import LabelReader, read_panoptic_ids
from cmpf.formats.masks import decode_mask
from cmpf.shapeworld.writer import WorldSpec, write_dataset
from cmpf.types import InstanceResult, ModelResult, Sample

PANOPTIC, INSTANCE, SEMANTIC = (
    f"MODEL.MASK_FORMER.TEST.{task}_ON" for task in ("PANOPTIC", "INSTANCE", "SEMANTIC")
)
ALL = (PANOPTIC, True, INSTANCE, True, SEMANTIC, True, "MODEL.MASK_FORMER.TEST.MASK_RECALL", True)
NO_RECALL = ("MODEL.MASK_FORMER.TEST.MASK_RECALL", False)
TRAINED_ON = SimpleNamespace(
    train_vocabulary=get_vocabulary("openvocab_coco_2017_train_panoptic_with_sem_seg")
)


@pytest.fixture
def shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ShapeWorld of three validation images."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_dataset(tmp_path / "shapeworld", WorldSpec(train=1, val=3), progress=False)
    return tmp_path


def test_evaluators_are_built_once_for_all_evaluations(shapes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    class Counted(PanopticEvaluator):
        def __init__(self, **options: Any) -> None:
            built.append("panoptic")
            super().__init__(**options)

    monkeypatch.setattr("cmpf.factory.evaluation.PanopticEvaluator", Counted)
    run = build_evaluation(tiny_config(overrides=["DATALOADER.NUM_WORKERS", 0]), tiny_model())
    first, second = run(), run()
    assert built == ["panoptic"]
    # The second evaluation starts from nothing: with the images of the first one, errors would count twice.
    np.testing.assert_equal(second["shapes_val"]["panoptic"], first["shapes_val"]["panoptic"])


def test_every_task_of_shapeworld_is_evaluated_and_the_mode_of_every_part_stays(
    shapes: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    cfg = tiny_config(overrides=["DATALOADER.NUM_WORKERS", 0])
    model = tiny_model().train()
    model.pixel_decoder.eval()  # as a researcher may freeze a part
    modes = {name: part.training for name, part in model.named_modules()}
    results = build_evaluation(cfg, model)()
    assert sorted(results["shapes_val"]) == ["bbox", "mask_recall", "panoptic", "segm", "sem_seg"]
    for name in ("PQ", "S_PQ", "U_PQ"):
        assert 0 <= results["shapes_val"]["panoptic"][name] <= 100
    assert {name: part.training for name, part in model.named_modules()} == modes
    assert re.search(r"shapes_val: 3 images in [\d.]+ s, [\d.]+ per second including evaluators", caplog.text)


def test_only_the_tasks_that_are_on_are_evaluated(shapes: Path) -> None:
    off = ["MODEL.MASK_FORMER.TEST.PANOPTIC_ON", False, "MODEL.MASK_FORMER.TEST.INSTANCE_ON", False,
           "MODEL.MASK_FORMER.TEST.MASK_RECALL", False]  # fmt: skip
    cfg = tiny_config(overrides=off)
    evaluators = build_evaluators(cfg, tiny_model(), get_dataset("shapes_val"))
    assert [type(evaluator).__name__ for evaluator in evaluators] == ["SemanticEvaluator"]


def test_instances_are_read_and_needed_only_where_they_are_evaluated(shapes: Path) -> None:
    (shapes / "shapeworld" / "val" / "instances.json").unlink()
    loading = ["DATALOADER.NUM_WORKERS", 0]
    cfg = tiny_config(overrides=[*loading, "MODEL.MASK_FORMER.TEST.INSTANCE_ON", False])
    sample, *_ = next(iter(build_test_loader(cfg, get_dataset("shapes_val"))))
    assert "annotations" not in sample
    assert "sem_seg_file_name" in sample
    for ask in (
        lambda: build_test_loader(tiny_config(overrides=loading), get_dataset("shapes_val")),
        lambda: build_evaluation(tiny_config(overrides=["DATASETS.TEST", ["shapes_val"]]), tiny_model()),
    ):
        with pytest.raises(DatasetError, match=r"shapes_val: not on disk.*instances\.json \(missing\)"):
            ask()


def test_test_images_have_the_configured_size_and_batch(shapes: Path) -> None:
    cfg = tiny_config(
        overrides=["DATALOADER.NUM_WORKERS", 0, "TEST.IMS_PER_BATCH", 2, "INPUT.MIN_SIZE_TEST", 96]
    )
    batches = list(build_test_loader(cfg, get_dataset("shapes_val")))
    assert [len(batch) for batch in batches] == [2, 1]
    assert batches[0][0]["image"].shape == (3, 96, 96)
    assert (batches[0][0]["height"], batches[0][0]["width"]) == (128, 128)


def test_a_missing_dataset_is_found_out_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(DatasetError, match="shapes_val: not on disk"):
        build_evaluation(tiny_config(), tiny_model())


@pytest.fixture
def trees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Every dataset of the table, two images each."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_prepared_trees(tmp_path, size=(24, 32))  # Cityscapes leaves out objects below 100 pixels
    for path in (tmp_path / "cityscapes" / "gtFine").rglob("*_labelTrainIds.png"):
        add_official_truth(path)
    return tmp_path


def add_official_truth(path: Path) -> None:
    """Writes labelIds and instanceIds beside a labelTrainIds image; each thing class is one object."""
    train_ids = np.asarray(Image.open(path)).astype(np.int64)
    table = np.zeros(256, dtype=np.int64)
    table[: len(LABEL_IDS)] = LABEL_IDS
    labels = table[train_ids]
    instances = np.where((train_ids >= 11) & (train_ids < 255), 1000 * labels, labels)
    Image.fromarray(labels.astype(np.uint8)).save(
        path.with_name(path.name.replace("labelTrainIds", "labelIds"))
    )
    Image.fromarray(instances.astype(np.uint16)).save(
        path.with_name(path.name.replace("labelTrainIds", "instanceIds"))
    )


def true_result(sample: Sample, dataset: Any) -> ModelResult:
    """The ground truth of a sample, in the form of a prediction."""
    size, result = truth_size(sample), ModelResult()
    masks: list[Any] = []
    classes: list[int] = []
    if "pan_seg_file_name" in sample:
        ids = read_panoptic_ids(sample["pan_seg_file_name"])
        result["panoptic_seg"] = torch.from_numpy(ids), sample["segments_info"]
        masks = [ids == info["id"] for info in sample["segments_info"]]
        classes = [info["category_id"] for info in sample["segments_info"]]
    if "sem_seg_file_name" in sample:
        read = LabelReader(
            num_classes=dataset.vocabulary.num_classes,
            ignore_label=dataset.spec.ignore_label,
            class_of_id=dataset.spec.class_of_label,
            no_class=0,
        )
        labels = read(sample["sem_seg_file_name"])
        result["sem_seg"] = torch.from_numpy(labels.astype(np.int64))
        masks = masks or [labels == k for k in np.unique(labels)]
    result["proposals"] = torch.from_numpy(np.array(masks, dtype=bool).reshape(-1, *size))
    if "annotations" in sample:
        found = sample["annotations"]
        masks = [decode_mask(a["segmentation"], height=size[0], width=size[1], where="") for a in found]
        classes = [a["category_id"] for a in found]
    boxes = (
        [(x.min(), y.min(), x.max() + 1, y.max() + 1) for y, x in map(np.nonzero, masks)] if classes else []
    )
    result["instances"] = InstanceResult(
        pred_masks=torch.from_numpy(np.array(masks if classes else [], dtype=bool).reshape(-1, *size)),
        pred_boxes=torch.tensor(boxes, dtype=torch.float64).reshape(-1, 4),
        scores=torch.ones(len(classes)),
        pred_classes=torch.tensor(classes, dtype=torch.int64),
    )
    return result


def truth_size(sample: Sample) -> tuple[int, int]:
    """(H, W) of a sample that no mapper has seen yet."""
    if "height" in sample:
        return sample["height"], sample["width"]
    width, height = Image.open(sample["sem_seg_file_name"]).size
    return height, width


RECALL = "mask_recall/recall_50"
SEMANTIC_NUMBERS = ["sem_seg/mIoU", "sem_seg/fwIoU", RECALL]
BENCHMARKS = {
    "openvocab_coco_2017_val_panoptic_with_sem_seg": ["panoptic/PQ", "segm/AP", "bbox/AP", *SEMANTIC_NUMBERS],
    "openvocab_ade20k_panoptic_val": ["panoptic/PQ", "segm/AP", "bbox/AP", *SEMANTIC_NUMBERS],
    "openvocab_ade20k_full_sem_seg_val": SEMANTIC_NUMBERS,
    "openvocab_cityscapes_fine_panoptic_val": ["panoptic/PQ", "segm/AP50", *SEMANTIC_NUMBERS],
    "openvocab_mapillary_vistas_panoptic_val": ["panoptic/PQ", *SEMANTIC_NUMBERS],
    "bdd10k_val_sem_seg": SEMANTIC_NUMBERS,
    "bdd10k_40_panoptic_val": ["panoptic/PQ", RECALL],
    "openvocab_pascal_ctx459_sem_seg_val": SEMANTIC_NUMBERS,
    "openvocab_pascal_ctx59_sem_seg_val": SEMANTIC_NUMBERS,
    "openvocab_pascal21_sem_seg_val": SEMANTIC_NUMBERS,
    "openvocab_pascal20_sem_seg_val": SEMANTIC_NUMBERS,
    "openvocab_lvis_v1_val": ["segm/AP", "bbox/AP"],
    "openvocab_coco_stuff_164k_sem_seg": SEMANTIC_NUMBERS,
    "openvocab_coco_2017_test_stuff_sem_seg": SEMANTIC_NUMBERS,
    "openvocab_ade20k_sem_seg_val": SEMANTIC_NUMBERS,
    "openvocab_ade20k_instance_val": ["segm/AP", "bbox/AP"],
    "openvocab_coco_2017_val": ["segm/AP", "bbox/AP"],
}


def test_the_truth_of_every_benchmark_scores_100_in_all_its_tasks(trees: Path) -> None:
    cfg = tiny_config(overrides=ALL)
    for name, metrics in BENCHMARKS.items():
        if "cityscapes" in name and not find_spec("cityscapesscripts"):  # an extra
            continue
        dataset = get_dataset(name)
        results = evaluate(
            lambda batch, dataset=dataset: [true_result(sample, dataset) for sample in batch],
            [[sample] for sample in dataset.samples_for(*dataset.spec.evaluators)],
            build_evaluators(cfg, TRAINED_ON, dataset),
            progress=False,
        )
        got = {metric: results[metric.split("/")[0]][metric.split("/")[1]] for metric in metrics}
        assert got == pytest.approx(dict.fromkeys(metrics, 100)), name
        assert set(results) == {metric.split("/")[0] for metric in metrics}, name


def test_lvis_has_means_over_frequencies_from_its_file(trees: Path) -> None:
    dataset = get_dataset("openvocab_lvis_v1_val")
    (judge,) = build_evaluators(tiny_config(overrides=ALL), TRAINED_ON, dataset)
    results = evaluate(
        lambda batch: [true_result(sample, dataset) for sample in batch],
        [[sample] for sample in dataset.samples],
        [judge],
        progress=False,
    )
    defined = [results["segm"][f"AP{letter}"] for letter in "rcf" if results["segm"][f"AP{letter}"] >= 0]
    assert defined == pytest.approx([100] * len(defined))
    assert defined


def test_images_without_ground_truth_are_not_evaluated(trees: Path) -> None:
    dataset = get_dataset("openvocab_lvis_v1_test_dev")
    expected = "test_dev: nothing to evaluate. It offers no ground truth, which only a test server has"
    with pytest.raises(ConfigError, match=expected):
        build_evaluators(tiny_config(overrides=ALL), TRAINED_ON, dataset)


def test_tasks_that_are_off_leave_their_half_of_cityscapes_out(trees: Path) -> None:
    pytest.importorskip(
        "cityscapesscripts", reason="needs pip install cityscapesscripts (extra 'cityscapes')"
    )
    dataset = get_dataset("openvocab_cityscapes_fine_panoptic_val")
    cfg = tiny_config(overrides=[PANOPTIC, False, INSTANCE, False, SEMANTIC, True, *NO_RECALL])
    (judge,) = build_evaluators(cfg, TRAINED_ON, dataset)
    assert list(judge.evaluate()) == ["sem_seg"]


def test_a_missing_package_is_found_out_before_training(trees: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cityscapesscripts.helpers.labels", None)
    cfg = tiny_config(overrides=["DATASETS.TEST", ("openvocab_cityscapes_fine_panoptic_val",)])
    with pytest.raises(EvaluationError, match="pip install cityscapesscripts"):
        build_evaluation(cfg, TRAINED_ON)


def test_a_dataset_without_a_task_that_is_on_is_an_error(trees: Path) -> None:
    cfg = tiny_config(overrides=[INSTANCE, False, "DATASETS.TEST", ("openvocab_lvis_v1_val",)])
    with pytest.raises(
        ConfigError, match=r"openvocab_lvis_v1_val: nothing to evaluate\. It offers lvis; switch on"
    ):
        build_evaluation(cfg, TRAINED_ON)
