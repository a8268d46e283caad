# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.preparing import Case
from helpers.raw_datasets import load_script
from helpers.raw_datasets.pascal import make_pascal_context, make_pascal_in_detail
from PIL import Image

from cmpf.data import get_vocabulary

MATS = Case(script="prepare_pascal_context_59", make=(make_pascal_context,), raw="", target="")
DETAIL = Case(script="prepare_pascal_context_59", make=(make_pascal_in_detail,), raw="", target="")
BOTH = Case(
    script="prepare_pascal_context_59", make=(make_pascal_context, make_pascal_in_detail), raw="", target=""
)
JSON = "VOCdevkit/VOC2010/trainval_merged.json"
LABELS = "pascal_ctx_d2/annotations_ctx59/training/2008_000008.png"
# Of the 59: wall 55, person 36, wood 58.
FROM_DETAIL = [[55, 55, 36], [255, 255, 58]]


def grid(root: Path) -> list[list[int]]:
    """The values of the 2 x 3 blocks of 32 x 32."""
    labels = np.array(Image.open(root / LABELS))
    assert labels.dtype == np.uint8
    return labels[::32, ::32].tolist()


def edit(root: Path, change) -> None:
    content = json.loads((root / JSON).read_text())
    change(content)
    (root / JSON).write_text(json.dumps(content))


def test_of_the_459_labels_of_a_mat_59_have_a_class(tmp_path: Path) -> None:
    MATS.write(tmp_path)
    assert MATS.run(tmp_path) == 0
    # Accordion, aeroplane, wool | nothing, unknown, wood: aeroplane is the first of the 59, wood the last.
    assert grid(tmp_path) == [[255, 0, 255], [255, 255, 58]]
    assert MATS.check(tmp_path) == 0


def test_the_59_are_the_classes_of_the_same_name_among_the_459() -> None:
    chosen = load_script("preparation.pascal").CONTEXT_59
    few, all_words = (
        [words[0] for words in get_vocabulary(f"openvocab_pascal_ctx{n}_sem_seg_val").classes]
        for n in (59, 459)
    )
    names = [all_words[label - 1] for label in chosen]
    different = [(name, of_all) for name, of_all in zip(few, names, strict=True) if name != of_all]
    assert different == [("dining table", "table")]


def test_masks_of_the_json_file_lie_one_over_the_other_and_its_phase_is_the_split(tmp_path: Path) -> None:
    DETAIL.write(tmp_path)
    assert DETAIL.run(tmp_path, "--jobs", "2") == 0
    assert grid(tmp_path) == FROM_DETAIL
    assert DETAIL.check(tmp_path) == 0
    images = tmp_path / "pascal_ctx_d2/images"
    assert sorted(path.stem for path in (images / "validation").iterdir()) == ["2008_000002", "2008_000003"]


def test_the_json_file_is_taken_where_both_are_there(tmp_path: Path) -> None:
    BOTH.write(tmp_path)
    assert BOTH.run(tmp_path) == 0
    assert grid(tmp_path) == FROM_DETAIL


def test_a_json_file_of_another_kind_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    DETAIL.write(tmp_path)
    edit(tmp_path, lambda content: content["images"][0].pop("phase"))
    assert DETAIL.run(tmp_path) == 1
    assert f"error: {tmp_path / JSON}: not of PASCAL in Detail (KeyError('phase'))" in capsys.readouterr().err
    edit(tmp_path, lambda content: content.update(images=[]))
    assert DETAIL.run(tmp_path) == 1
    assert f"error: {tmp_path / JSON}: no image of phase 'train'" in capsys.readouterr().err
    edit(tmp_path, lambda content: content.pop("annos_segmentation"))
    assert DETAIL.run(tmp_path) == 1
    assert "it has no list 'annos_segmentation'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"category_id": 460}, "category 460; expected 0..459"),
        ({"segmentation": [[0, 0, 9, 0, 9, 9]]}, "a mask in the JSON file is no RLE of size (64, 96)"),
        (
            {"segmentation": {"size": [96, 64], "counts": "0"}},
            "a mask in the JSON file is no RLE of size (64, 96)",
        ),
    ],
)
def test_a_spoilt_mask_is_named_by_its_image_and_the_rest_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], expected: str
) -> None:
    DETAIL.write(tmp_path)
    edit(tmp_path, lambda content: content["annos_segmentation"][0].update(change))
    assert DETAIL.run(tmp_path) == 1
    image = tmp_path / "VOCdevkit/VOC2010/JPEGImages/2008_000008.jpg"
    assert f"{image}: {expected}" in capsys.readouterr().err
    assert len(list((tmp_path / "pascal_ctx_d2/annotations_ctx59").rglob("*.png"))) == 3
