# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from cmpf.errors import CMPFError
from cmpf.inference import Prediction


def test_every_format_is_written_and_reads_back(prediction: Prediction, tmp_path: Path) -> None:
    written = prediction.save(tmp_path, ("overlay", "panoptic", "coco", "semantic", "instances"))
    assert sorted(path.name for path in written) == sorted(path.name for path in tmp_path.iterdir())
    rgb = np.asarray(Image.open(tmp_path / "garden_panoptic.png")).astype(int)
    assert np.array_equal(rgb @ [1, 256, 65536], prediction.panoptic)  # COCO: id = R + 256 G + 65536 B
    table = json.loads((tmp_path / "garden_panoptic.json").read_text())
    assert [s["area"] for s in table["annotations"][0]["segments_info"]] == [12, 36]
    (coco,) = json.loads((tmp_path / "garden_instances.json").read_text())
    assert np.array_equal(coco_mask.decode(coco["segmentation"]), prediction.panoptic == 1)
    assert coco["bbox"] == [0, 0, 3, 4]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "garden_semantic.png")), prediction.semantic)
    arrays = np.load(tmp_path / "garden_instances.npz", allow_pickle=False)
    assert np.array_equal(arrays["masks"], prediction.instances.masks)
    assert arrays["boxes"].tolist() == [[0, 0, 3, 4]]
    assert arrays["scores"] == pytest.approx([0.9])
    assert arrays["names"][arrays["labels"]].tolist() == ["cat"]


def test_ids_above_one_byte_survive_the_panoptic_png(prediction: Prediction, tmp_path: Path) -> None:
    ids, segments = prediction.panoptic.copy(), prediction.segments
    ids[ids == 1] = 70000  # 70000 = 112 + 256 * 17 + 65536 * 1
    big = replace(prediction, panoptic_result=(ids, (replace(segments[0], id=70000), segments[1])))
    big.save(tmp_path, ("panoptic",))
    assert np.asarray(Image.open(tmp_path / "garden_panoptic.png"))[0, 0].tolist() == [112, 17, 1]


def test_an_unknown_format_writes_nothing(prediction: Prediction, tmp_path: Path) -> None:
    with pytest.raises(
        CMPFError, match="'tiff' is unknown; choose from overlay, panoptic, coco, semantic, inst"
    ):
        prediction.save(tmp_path / "out", ("overlay", "tiff"))
    assert not (tmp_path / "out").exists()


def test_one_format_may_be_given_as_a_string(prediction: Prediction, tmp_path: Path) -> None:
    assert prediction.save(tmp_path, "semantic") == [tmp_path / "garden_semantic.png"]
    with pytest.raises(CMPFError, match="'tiff' is unknown"):
        prediction.save(tmp_path, "tiff")
