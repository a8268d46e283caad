# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from cmpf.errors import CMPFError, ImageError, VocabularyError
from cmpf.web.inputs import (
    MAX_CLASS_LETTERS,
    MAX_CLASSES,
    PHOTOGRAPHS,
    SEEDS,
    SIZE,
    Limits,
    class_words,
    read_upload,
    write_examples,
)
from cmpf.web.panel import TASKS


def save(path: Path, height: int, width: int) -> Path:
    Image.new("RGB", (width, height), (200, 30, 30)).save(path)
    return path


def test_a_small_image_stays_as_it_is(tmp_path: Path) -> None:
    upload = read_upload(save(tmp_path / "red wall.png", 30, 40), Limits(max_side=40, working_side=40))
    assert upload.pixels.shape == (30, 40, 3)
    assert upload.original_size == (30, 40)
    assert upload.name == "red wall"


def test_a_large_image_is_shrunk_to_the_working_side(tmp_path: Path) -> None:
    upload = read_upload(save(tmp_path / "a.jpg", 60, 90), Limits(working_side=45))
    # 45 / 90 = 0.5 of each side
    assert upload.pixels.shape == (30, 45, 3)
    assert upload.original_size == (60, 90)


def test_an_image_beyond_the_limit_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    whole = save(tmp_path / "whole.png", 300, 500).read_bytes()
    path = tmp_path / "long.png"
    path.write_bytes(whole[:100])  # a header and too few pixels: decoding it would be another error
    with pytest.raises(ImageError, match=r"long.png: its longer side has 500 pixels .* up to 400; make the"):
        read_upload(path, Limits(max_side=400))


@pytest.mark.parametrize("content", [b"", b"no image", b"\x89PNG\r\n\x1a\n\x00\x00"])
def test_a_broken_upload_names_the_file_but_not_the_servers_folder(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.png"
    path.write_bytes(content)
    with pytest.raises(ImageError, match=r"^broken.png: ") as caught:
        read_upload(path, Limits())
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("name", ["max_side", "working_side", "max_upload_mb", "queue"])
def test_limits_below_one_are_refused(name: str) -> None:
    with pytest.raises(CMPFError, match=f"{name} must be at least 1, got 0"):
        Limits(**{name: 0})


def test_chips_become_classes_and_lists_within_them_are_split() -> None:
    assert class_words(["cat", " person,  pedestrian ", "grass; sky;\nroad"]) == [
        "cat", "person, pedestrian", "grass", "sky", "road"
    ]  # fmt: skip
    assert class_words("cat; dog") == ["cat", "dog"]


def test_what_is_said_twice_counts_once_and_the_first_spelling_stays() -> None:
    assert class_words(["Cat", "dog", "cat", "DOG;bird"]) == ["Cat", "dog", "bird"]


@pytest.mark.parametrize("chips", [None, [], "", [" ", ";", ","]])
def test_no_words_are_an_error_with_an_example(chips: list[str] | str | None) -> None:
    with pytest.raises(VocabularyError, match="no words yet; type what to look for, such as: cat"):
        class_words(chips)


def test_too_many_and_too_long_words_are_refused() -> None:
    assert len(class_words([f"word {i}" for i in range(MAX_CLASSES)])) == MAX_CLASSES
    with pytest.raises(
        VocabularyError, match=f"{MAX_CLASSES + 1} classes; this page takes up to {MAX_CLASSES}"
    ):
        class_words([f"word {i}" for i in range(MAX_CLASSES + 1)])
    assert class_words(["x" * MAX_CLASS_LETTERS])
    with pytest.raises(VocabularyError, match=f"{MAX_CLASS_LETTERS + 1} letters"):
        class_words(["x" * (MAX_CLASS_LETTERS + 1)])


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
