# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What every preparation does in the same way. A new one is a new row of CASES."""

from __future__ import annotations

from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case, files, rewrite, truncate
from helpers.raw_datasets.ade20k import make_ade20k, make_ade20k_full
from helpers.raw_datasets.bdd100k import make_bdd100k
from helpers.raw_datasets.cityscapes import make_cityscapes
from helpers.raw_datasets.coco import make_coco, make_coco_stuff
from helpers.raw_datasets.pascal import make_pascal_context, make_pascal_voc

from cmpf.cli import prepare
from cmpf.data.preparation import PREPARATIONS, get_preparation

ADE = "ADEChallengeData2016"
ADE_VAL = "validation/ADE_val_00000002.png"
FULL_VAL = "validation/ADE_val_00001471"
LABELS = (
    Case(
        name="coco_semantic",
        make=(make_coco,),
        raw="coco/panoptic_val2017/000000000285.png",
        target="coco/panoptic_semseg_val2017/000000000285.png",
    ),
    Case(
        name="coco_stuff",
        make=(make_coco, make_coco_stuff),
        raw="coco/stuffthingmaps/val2017/000000000285.png",
        target="coco/stuffthingmaps_detectron2/val2017/000000000285.png",
    ),
    Case(
        name="ade20k_semantic",
        make=(make_ade20k,),
        raw=f"{ADE}/annotations/{ADE_VAL}",
        target=f"{ADE}/annotations_detectron2/{ADE_VAL}",
    ),
    Case(
        name="ade20k_full",
        make=(make_ade20k_full,),
        raw="ADE20K_2021_17_01/images/ADE/validation/urban/street/ADE_val_00001471_seg.png",
        target=f"ADE20K_2021_17_01/annotations_detectron2/{FULL_VAL}.tif",
    ),
    Case(
        name="pascal_voc",
        make=(make_pascal_voc,),
        raw="VOCdevkit/VOC2012/SegmentationClass/2008_000002.png",
        target="pascal_voc_d2/annotations_pascal21/validation/2008_000002.png",
    ),
    Case(
        name="pascal_context_459",
        make=(make_pascal_context,),
        raw="VOCdevkit/VOC2010/trainval/2008_000002.mat",
        target="pascal_ctx_d2/annotations_ctx459/validation/2008_000002.tif",
    ),
    Case(
        name="pascal_context_59",
        make=(make_pascal_context,),
        raw="VOCdevkit/VOC2010/trainval/2008_000002.mat",
        target="pascal_ctx_d2/annotations_ctx59/validation/2008_000002.png",
    ),
    Case(
        name="bdd100k_semantic",
        make=(partial(make_bdd100k, masks=False),),
        raw="bdd100k/labels/pan_seg/bitmasks/val/7d06fefd-f7be05a6.png",
        target="bdd100k/labels/sem_seg/masks/val/7d06fefd-f7be05a6.png",
    ),
)
PANOPTIC = (
    Case(
        name="ade20k_panoptic",
        make=(make_ade20k,),
        raw=f"{ADE}/annotations_instance/{ADE_VAL}",
        target=f"{ADE}/ade20k_panoptic_val/ADE_val_00000002.png",
        made=(f"{ADE}/ade20k_panoptic_val.json",),
    ),
    Case(
        name="bdd100k_panoptic",
        make=(make_bdd100k,),
        raw="bdd100k/labels/pan_seg/bitmasks/val/7d06fefd-f7be05a6.png",
        target="bdd100k/jsons/pan_seg/masks/val/7d06fefd-f7be05a6.png",
        made=("bdd100k/jsons/pan_seg_val_cocofmt.json",),
    ),
)
CITYSCAPES = Case(
    name="cityscapes",
    make=(make_cityscapes,),
    raw="cityscapes/gtFine/val/munster/munster_000000_000019_gtFine_instanceIds.png",
    target="cityscapes/gtFine/cityscapes_panoptic_val/munster_000000_000019_gtFine_panoptic.png",
    made=("cityscapes/gtFine/cityscapes_panoptic_val.json",),
)
without_scripts = pytest.mark.skipif(find_spec("cityscapesscripts") is None, reason="needs cityscapesscripts")
CASES = (*LABELS, *PANOPTIC, pytest.param(CITYSCAPES, marks=without_scripts))
all_cases = pytest.mark.parametrize("case", CASES, ids=str)
label_cases = pytest.mark.parametrize("case", LABELS, ids=str)


@pytest.fixture
def prepared(case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Path:
    case.write(tmp_path)
    assert case.run(tmp_path) == 0
    assert case.check(tmp_path) == 0
    capsys.readouterr()
    return tmp_path


def written(root: Path) -> dict[str, int]:
    """When each file was written last."""
    return {name: (root / name).stat().st_mtime_ns for name in files(root)}


@all_cases
def test_two_processes_make_the_same_files_as_one(case: Case, prepared: Path, tmp_path_factory) -> None:
    other = tmp_path_factory.mktemp("other")
    case.write(other)
    assert case.run(other, "--jobs", "2") == 0
    assert case.check(other, "--jobs", "2") == 0
    assert files(other) == files(prepared)
    assert (other / case.target).is_file()


@all_cases
def test_after_the_loss_of_one_target_only_that_one_is_made(
    case: Case, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before, times = files(prepared), written(prepared)
    (prepared / case.target).unlink()
    assert case.run(prepared) == 0
    assert "1 created" in capsys.readouterr().out
    assert files(prepared) == before
    changed = {name for name, time in written(prepared).items() if times[name] != time}
    assert changed == {case.target, *case.made}


@all_cases
def test_a_damaged_image_is_named_and_the_others_are_done(
    case: Case, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case.write(tmp_path)
    whole = (tmp_path / case.raw).read_bytes()
    truncate(tmp_path / case.raw)
    assert case.run(tmp_path) == 1
    assert str(tmp_path / case.raw) in capsys.readouterr().err
    done = set(files(tmp_path))
    (tmp_path / case.raw).write_bytes(whole)
    assert case.run(tmp_path) == 0
    assert case.check(tmp_path) == 0
    late = set(files(tmp_path)) - done
    assert late >= {case.target, *case.made}
    assert {name for name in late if Path(name).stem != Path(case.target).stem} == set(case.made)


@all_cases
def test_overwrite_makes_everything_again(case: Case, prepared: Path) -> None:
    before = files(prepared)
    rewrite(prepared / case.target, np.zeros_like)
    assert case.run(prepared, "--split", "val") == 0, "what is there is believed"
    assert files(prepared) != before
    assert case.run(prepared, "--split", "val", "--overwrite") == 0
    assert files(prepared) == before


@all_cases
def test_a_split_can_be_prepared_alone(case: Case, tmp_path: Path) -> None:
    case.write(tmp_path)
    before = set(files(tmp_path))
    assert case.run(tmp_path, "--split", "val") == 0
    assert case.check(tmp_path, "--split", "val") == 0
    made = set(files(tmp_path)) - before
    assert made
    assert not [name for name in made if "train" in name]


@all_cases
def test_a_missing_target_and_one_too_many_are_named(
    case: Case, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = prepared / case.target
    orphan = target.with_name(f"orphan{target.suffix}")
    target.rename(orphan)
    assert case.check(prepared) == 1
    out = capsys.readouterr().out
    assert target.stem in out
    assert str(orphan) in out


@all_cases
def test_a_target_of_another_size_is_named(
    case: Case, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(prepared / case.target, lambda values: values[:-1])
    assert case.check(prepared) == 1
    out = capsys.readouterr().out
    assert "different sizes (1): " in out
    assert f"{prepared / case.target}: has (63, 96) (H, W), the image has (64, 96)" in out


@all_cases
def test_a_damaged_target_is_named(case: Case, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truncate(prepared / case.target)
    assert case.check(prepared) == 1
    out = capsys.readouterr().out
    assert "damaged file (1): " in out
    assert str(prepared / case.target) in out


@all_cases
def test_too_few_images_for_the_release_are_an_issue(
    case: Case, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert case.run(prepared, "--check", "--split", "val") == 1
    release = get_preparation(case.name).images["val"]
    assert f"images found, {release:,} expected\n" in capsys.readouterr().out


@label_cases
def test_values_out_of_range_are_named(
    case: Case, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rewrite(prepared / case.target, lambda values: np.full_like(values, 250) + (values.itemsize - 1) * 40_000)
    assert case.check(prepared) == 1
    wrong = 40_250 if case.target.endswith(".tif") else 250
    assert f"{prepared / case.target}: label {wrong} in " in capsys.readouterr().out


@label_cases
def test_the_wrong_bit_depth_is_named(case: Case, prepared: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = np.uint8 if case.target.endswith(".tif") else np.uint16
    rewrite(prepared / case.target, lambda values: np.zeros(values.shape, dtype=other))
    assert case.check(prepared) == 1
    out = capsys.readouterr().out
    assert "wrong bit depth (1): " in out
    assert f"{prepared / case.target}: has {8 * np.dtype(other).itemsize} bits" in out


@pytest.mark.parametrize("name", PREPARATIONS)
def test_missing_raw_data_are_one_error_with_every_path_and_the_page(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    preparation = get_preparation(name)
    assert prepare.main(name, ["--root", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {preparation.title}: raw data are missing. Looked for ")
    assert error.count("\n") == 1
    for split in preparation.images:
        for path in preparation.raw(tmp_path, split):
            assert f"{path} (missing)" in error
    assert preparation.download in error


@pytest.mark.parametrize("name", PREPARATIONS)
def test_checking_what_was_not_prepared_names_the_command(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare.main(name, ["--root", str(tmp_path), "--check"]) == 1
    error = capsys.readouterr().err
    assert "not prepared" in error
    assert f"cmpf datasets prepare {name}" in error


def test_every_preparation_has_a_script_of_its_name_and_the_other_way_round() -> None:
    folder = Path(__file__).resolve().parents[2] / "datasets"
    scripts = {path.stem: path.read_text() for path in folder.glob("prepare_*.py")}
    assert set(scripts) == {f"prepare_{name}" for name in PREPARATIONS}
    for name in PREPARATIONS:
        script = scripts[f"prepare_{name}"]
        assert f'main("{name}")' in script
        assert get_preparation(name).description().splitlines()[0] in script
