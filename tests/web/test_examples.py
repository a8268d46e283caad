# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from cmpf.web.examples import PHOTOGRAPHS, SEEDS, SIZE, write_examples
from cmpf.web.limits import class_words
from cmpf.web.view import TASKS


def test_each_example_is_an_image_with_words_and_a_task(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="photographs come with scikit-image")
    examples = write_examples(tmp_path)
    assert [e.path.stem for e in examples] == ["shapes_1", "shapes_2", *PHOTOGRAPHS]
    for example in examples:
        assert example.path.parent == tmp_path
        assert min(Image.open(example.path).size) >= 300
        assert class_words(example.words) == list(example.words)
        assert example.task in TASKS
    assert Image.open(examples[0].path).size == (SIZE, SIZE)


def test_without_scikit_image_the_generated_images_remain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert len(write_examples(tmp_path)) == len(SEEDS)
