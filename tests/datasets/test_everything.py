# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""All datasets under one root: from the raw releases through the scripts to the catalog and to one table of results."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.documents import DOCUMENTS, ROOT, SHELL, blocks, command_lines, own_program
from helpers.raw_datasets import make_everything
from helpers.scripts import script
from numpy.typing import NDArray
from PIL import Image

from cmpf.cli import main, prepare
from cmpf.config import get_cfg
from cmpf.data import Dataset, dataset_names, get_dataset
from cmpf.data.datasets.builtin import SPECS
from cmpf.data.datasets.validate import report_of
from cmpf.data.preparation import PREPARATIONS
from cmpf.factory import build_model
from cmpf.formats.label_map import LabelReader
from cmpf.shapeworld import __main__ as shapeworld
from cmpf.types import Sample
from cmpf.weights import save as save_weights

collect_results, train_net = script("collect_results"), script("train_net")
pytest.importorskip("cityscapesscripts", reason="needs cityscapesscripts (extra: cityscapes)")

# What the blocks of the first image show, in reading order, three in a row; None = void.
STREET = ("road", "car", "car", "car", None, None, "person", None, "bicycle")
PANOPTIC = {
    "openvocab_coco_2017_val_panoptic_with_sem_seg": ("person", "person", "car", "sky", None, "rug"),
    # The flag of the raw tree belongs to no instance, so it is void here, and a flag in the label maps.
    "openvocab_ade20k_panoptic_val": ("wall", "bed", "bed", "window", None, "sky", None, "sky", "wall"),
    "openvocab_cityscapes_fine_panoptic_val": STREET,
    "openvocab_mapillary_vistas_panoptic_val": ("road", "car", "car", "sky", None, "ego vehicle"),
    "bdd10k_40_panoptic_val": ("road", "road", "car", "car", "person", "car", "sky", None, "caravan"),
}
SEMANTIC = {
    **{name: shown for name, shown in PANOPTIC.items() if name != "bdd10k_40_panoptic_val"},  # no label maps
    "openvocab_ade20k_panoptic_val": ("wall", "bed", "bed", "window", None, "sky", "flag", "sky", "wall"),
    "openvocab_ade20k_full_sem_seg_val": ("wall", "building", "bed", None, None, "wall"),
    "bdd10k_val_sem_seg": ("road", "road", "car", "car", "person", "car", "sky", None, None),
    "openvocab_pascal_ctx459_sem_seg_val": (
        *("wool", None, "unknown object"),
        *("wood", "accordion", "aeroplane"),
    ),
    "openvocab_pascal_ctx59_sem_seg_val": (
        "wall",
        "wall",
        "person",
        None,
        None,
        "wood",
    ),  # of PASCAL in Detail
    "openvocab_pascal21_sem_seg_val": (
        *("tv monitor", None, "dog"),
        *("background", "background", "aeroplane"),
    ),
    "openvocab_pascal20_sem_seg_val": ("tv monitor", None, "dog", None, None, "aeroplane"),
    "openvocab_ade20k_sem_seg_val": ("wall", "bed", "bed", "window", None, "sky", "flag", "sky", "wall"),
    "openvocab_coco_2017_test_stuff_sem_seg": ("person", "car", "wood", "banner", None, "stop sign"),
}
FULL, MASKS = ("panoptic", "segm", "bbox", "sem_seg"), ("segm", "bbox")
TASKS = {
    "a847": ("openvocab_ade20k_full_sem_seg_val", ("sem_seg",)),
    "ade20k": ("openvocab_ade20k_panoptic_val", FULL),
    "bdd_panop": ("bdd10k_40_panoptic_val", ("panoptic",)),
    "bdd_sem": ("bdd10k_val_sem_seg", ("sem_seg",)),
    "cityscapes": ("openvocab_cityscapes_fine_panoptic_val", ("panoptic", "segm", "sem_seg")),
    "coco": ("openvocab_coco_2017_val_panoptic_with_sem_seg", FULL),
    "lvis": ("openvocab_lvis_v1_val", MASKS),
    "mapillary_vistas": ("openvocab_mapillary_vistas_panoptic_val", ("panoptic", "sem_seg")),
    "pas20": ("openvocab_pascal20_sem_seg_val", ("sem_seg",)),
    "pas21": ("openvocab_pascal21_sem_seg_val", ("sem_seg",)),
    "pc459": ("openvocab_pascal_ctx459_sem_seg_val", ("sem_seg",)),
    "pc59": ("openvocab_pascal_ctx59_sem_seg_val", ("sem_seg",)),
}
# The tiny encoders with random weights, and a small decoder.
TINY = (
    *("MODEL.CMPF.CLIP.NAME", "cmpf_tiny", "MODEL.CMPF.CLIP.PRETRAINED", ""),
    *("MODEL.CMPF.SAM.NAME", "cmpf_tiny", "MODEL.CMPF.SAM.CHECKPOINT", "random"),
    *("MODEL.CMPF.SAM_BRANCH.LAYERS", "1"),
    *("MODEL.SEM_SEG_HEAD.CONVS_DIM", "64", "MODEL.SEM_SEG_HEAD.MASK_DIM", "64"),
    *("MODEL.SEM_SEG_HEAD.NORM_GROUPS", "8", "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", "1"),
    *("MODEL.SEM_SEG_HEAD.DIM_FEEDFORWARD", "64"),
    *("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_HEADS", "4"),
    *("MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS", "2"),
    *("MODEL.MASK_FORMER.HIDDEN_DIM", "64", "MODEL.MASK_FORMER.NHEADS", "4"),
    *("MODEL.MASK_FORMER.DIM_FEEDFORWARD", "64", "MODEL.MASK_FORMER.DEC_LAYERS", "5"),
    *("MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", "10"),
    *("MODEL.DEVICE", "cpu", "NUM_THREADS", "1", "DATALOADER.NUM_WORKERS", "0"),
)


DOCUMENT = "datasets/README.md"
SIZES = {"--train": "1", "--val": "1", "--hard-val": "1"}  # of ShapeWorld, where the document has thousands


def documented_commands() -> list[tuple[str, list[str]]]:
    """(program, arguments) of every command of datasets/README.md, but for those that explain NAME."""
    assert DOCUMENT in DOCUMENTS
    text = (ROOT / DOCUMENT).read_text(encoding="utf-8")
    lines = [c for block in blocks(DOCUMENT, text) if block.language in SHELL for c in command_lines(block)]
    return [own for line in lines if "NAME" not in line and (own := own_program(line))]


def follow(program: str, arguments: list[str]) -> int:
    """Exit code of one documented command; the raw trees have fewer images than the releases, which --check counts."""
    if program == "-m cmpf.shapeworld":
        values = [
            SIZES.get(before, value) for before, value in zip(["", *arguments], arguments, strict=False)
        ]
        return shapeworld.main(
            [*values, "--tune", "1", "--jobs", "1"]
        )  # tune/ is there where one asks for it
    assert (program, arguments[:2]) == ("cmpf", ["datasets", "prepare"])
    return main([*arguments, "--jobs", "1", *(["--images", "0"] if "--check" in arguments else [])])


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of all datasets, made from raw trees by the commands of datasets/README.md, in its order."""
    folder = tmp_path_factory.mktemp("everything")
    make_everything(folder / "datasets")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("DETECTRON2_DATASETS", raising=False)
        failed = [command for command in documented_commands() if follow(*command) != 0]
    assert failed == []
    return folder / "datasets"


@pytest.fixture
def root(everything: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(everything))
    return everything


def words(dataset: Dataset, classes: NDArray[np.integer], blocks: int) -> tuple[str | None, ...]:
    """First words of the classes (H, W; below 0 = void) in the middle of each block."""
    height, width = classes.shape
    rows = blocks // 3
    middles = [
        (height * (2 * row + 1) // (2 * rows), width * (2 * column + 1) // 6)
        for row in range(rows)
        for column in range(3)
    ]
    indices = [int(classes[place]) for place in middles]
    return tuple(dataset.vocabulary.classes[index][0] if index >= 0 else None for index in indices)


def label_classes(dataset: Dataset, sample: Sample) -> NDArray[np.integer]:
    read = LabelReader(
        num_classes=dataset.vocabulary.num_classes,
        ignore_label=dataset.spec.ignore_label,
        class_of_id=dataset.spec.class_of_label,
    )
    return read(sample["sem_seg_file_name"])


def panoptic_classes(sample: Sample) -> NDArray[np.integer]:
    ids = np.array(Image.open(sample["pan_seg_file_name"])).astype(np.int64) @ (1, 256, 65536)
    classes = np.full(ids.shape, -1)
    for segment in sample["segments_info"]:
        classes[ids == segment["id"]] = segment["category_id"]
    return classes


def test_the_document_has_a_command_for_every_preparation_and_a_heading_for_every_dataset() -> None:
    prepared = {arguments[2] for program, arguments in documented_commands() if program == "cmpf"}
    assert prepared == set(PREPARATIONS)
    headings = re.findall(r"^## .*", (ROOT / DOCUMENT).read_text(encoding="utf-8"), flags=re.M)
    named = {
        name for heading in headings for words in re.findall(r"`([^`]+)`", heading) for name in spelt(words)
    }
    assert named == {spec.name for spec in SPECS if not spec.alias_of}


def spelt(words: str) -> list[str]:
    """a_{b,c} -> a_b, a_c."""
    match = re.search(r"\{([^}]+)\}", words)
    if match is None:
        return [words]
    return [name for part in match[1].split(",") for name in spelt(words.replace(match[0], part, 1))]


@pytest.mark.parametrize("name", PREPARATIONS)
def test_what_every_preparation_made_passes_its_own_check(name: str, root: Path) -> None:
    arguments = ["--root", str(root), "--check", "--images", "0", "--jobs", "1"]
    assert prepare.main(name, arguments) == 0


@pytest.mark.parametrize("name", dataset_names())
def test_what_was_prepared_passes_the_check_of_datasets(name: str, root: Path) -> None:
    assert report_of(name).issues == []


@pytest.mark.parametrize(
    ("folder", "kind"),
    [
        ("val2017", "jpg"),
        ("panoptic_val2017", "png"),
        ("panoptic_semseg_val2017", "png"),
    ],
)
def test_files_of_a_release_that_nothing_lists_are_found(folder: str, kind: str, root: Path) -> None:
    stranger = root / "coco" / folder / f"stranger.{kind}"
    stranger.write_bytes(next(stranger.parent.glob(f"0*.{kind}")).read_bytes())
    try:
        found = report_of("openvocab_coco_2017_val_panoptic_with_sem_seg").issues
    finally:
        stranger.unlink()
    assert [str(issue) for issue in found] == [f"{stranger}: panoptic_val2017.json does not list it"]


@pytest.mark.parametrize("name", dataset_names())
def test_every_row_of_the_catalog_is_found_and_reads(name: str, root: Path) -> None:
    dataset = get_dataset(name)
    assert dataset.samples
    assert dataset.spec.evaluators or "test" in name  # of LVIS' test images nobody has the ground truth
    for sample in dataset.samples_for(*dataset.spec.evaluators):
        assert Path(sample["file_name"]).is_file()
        if "sem_seg_file_name" in sample:
            assert label_classes(dataset, sample).max() >= 0
        if "pan_seg_file_name" in sample:
            assert panoptic_classes(sample).max() >= 0


@pytest.mark.parametrize("name", PANOPTIC)
def test_panoptic_segments_have_the_classes_of_the_release(name: str, root: Path) -> None:
    dataset, expected = get_dataset(name), PANOPTIC[name]
    assert words(dataset, panoptic_classes(dataset.samples[0]), len(expected)) == expected


@pytest.mark.parametrize("name", SEMANTIC)
def test_label_maps_have_the_classes_of_the_release(name: str, root: Path) -> None:
    dataset, expected = get_dataset(name), SEMANTIC[name]
    assert (
        words(dataset, label_classes(dataset, dataset.samples_for("semantic")[0]), len(expected)) == expected
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("openvocab_coco_2017_val_panoptic_with_sem_seg", ["person", "person", "car"]),
        ("openvocab_ade20k_panoptic_val", ["bed", "bed", "window"]),
        ("openvocab_coco_2017_val", ["person", "person", "car"]),
        ("openvocab_ade20k_instance_val", ["bed", "bed", "window"]),
        ("openvocab_lvis_v1_val", ["person", "car", "aerosol can"]),
    ],
)
def test_instances_have_the_classes_of_the_release(name: str, expected: Sequence[str], root: Path) -> None:
    dataset = get_dataset(name)
    indices = [annotation["category_id"] for annotation in dataset.samples_for("instance")[0]["annotations"]]
    assert [dataset.vocabulary.classes[index][0] for index in indices] == expected


@pytest.mark.slow
def test_twelve_evaluations_of_the_tiny_model_make_one_table(root: Path, tmp_path: Path) -> None:
    folder = Path(train_net.__file__).parent.parent / "configs" / "coco" / "cmpf"
    configs = sorted(folder.glob("convnext_large_eval_*.yaml"))
    assert [path.stem.removeprefix("convnext_large_eval_") for path in configs] == sorted(TASKS)
    torch.manual_seed(0)
    weights = tmp_path / "weights.safetensors"
    save_weights(build_model(get_cfg(str(configs[0]), TINY)), weights, metadata={})
    outputs = []
    for config in configs:
        dataset, tasks = TASKS[config.stem.removeprefix("convnext_large_eval_")]
        outputs.append(str(tmp_path / config.stem))
        own = ("MODEL.WEIGHTS", str(weights), "OUTPUT_DIR", outputs[-1])
        assert train_net.main(["--config-file", str(config), "--eval-only", *TINY, *own]) == 0
        results = json.loads(Path(outputs[-1], "results.json").read_text())
        assert list(results) == [dataset, "protocol"]
        assert results["protocol"][dataset]["protocol"] == "own words: not comparable"
        assert set(results[dataset]) == set(tasks)
    assert collect_results.main([*outputs, "--output", str(tmp_path / "all")]) == 0
    merged = json.loads((tmp_path / "all" / "results.json").read_text())
    assert set(merged.pop("protocol")) == set(merged)
    assert set(merged) == {dataset for dataset, _ in TASKS.values()}
    values = [v for tasks in merged.values() for metrics in tasks.values() for v in metrics.values()]
    assert all(value is None or 0 <= value <= 100 for value in values)
    headline = {"panoptic": "PQ", "segm": "AP", "bbox": "AP", "sem_seg": "mIoU"}
    for dataset, tasks in TASKS.values():
        for task in tasks:
            assert merged[dataset][task][headline[task]] is not None, f"{dataset}: no {task}"
    table = (tmp_path / "all" / "results.md").read_text()
    assert all(dataset in table for dataset, _ in TASKS.values())
