# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.

from __future__ import annotations

import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from helpers.tiny_model import mask_ensemble, tiny_model
from PIL import Image

import cmpf.web
from cmpf.errors import CMPFError, ImageError, VocabularyError
from cmpf.inference.settings import Selection
from cmpf.predictor import Predictor
from cmpf.web import build_page
from cmpf.web.inputs import (
    EXAMPLE_SIZE,
    MAX_CLASS_LENGTH,
    MAX_CLASSES,
    PHOTOGRAPHS,
    SEEDS,
    Example,
    Limits,
    parse_classes,
    read_upload,
    write_examples,
)
from cmpf.web.page import Segmenter, import_gradio, upload_box, uploaded_path
from cmpf.web.panel import TASKS, WELCOME

NEEDS = "the page needs Gradio (extra: web)"


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    """Random weights."""
    return Predictor(model=tiny_model("no_ensemble"), short_side=64, max_side=128, mask_ensemble=None)


@pytest.fixture
def photo(tmp_path: Path) -> str:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(path)
    return str(path)


class Recorder:
    """A predictor that only keeps what it is called with."""

    mask_ensemble: Any = None
    known = (SimpleNamespace(names=("cat", "dog")), SimpleNamespace(names=("dog", "sky")))

    def __init__(self, error: Exception) -> None:
        self.error = error
        self.calls: list[dict[str, Any]] = []

    def predict(self, image: Any, words: list[str], **options: Any) -> None:
        self.calls.append({"shape": image.shape, "words": words, **options})
        raise self.error


@pytest.mark.parametrize("task", ["panoptic", "semantic", "instance"])
def test_every_task_gives_a_panel(predictor: Predictor, photo: str, task: str) -> None:
    panel = Segmenter(predictor, Limits())(photo, ["cat", "dog; sky"], task)
    assert panel.startswith("<div class='cmpf-result' data-name='photo'>")
    assert "56 × 40 pixels" in panel


def test_words_that_name_files_and_datasets_stay_words(
    predictor: Predictor, photo: str, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("0:treasure\n1:map\n", encoding="utf-8")
    panel = Segmenter(predictor, Limits())(photo, [str(secret), f"file:{secret}", "shapes_val"], "semantic")
    assert "cmpf-result" in panel
    assert "treasure" not in panel


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": None}, "no image; upload one"),
        ({"chips": []}, "no classes; enter"),
        ({"min_score": 1.5}, "min_score must be a number from 0 to 1, got 1.5"),
        ({"task": "depth"}, "task &#x27;depth&#x27; is unknown; choose one of panoptic, semantic, instance"),
    ],
)
def test_what_visitors_do_wrong_is_told_as_text(
    predictor: Predictor, photo: str, change: dict[str, Any], message: str
) -> None:
    request = {"path": photo, "chips": ["cat"], "task": "panoptic"} | change
    panel = Segmenter(predictor, Limits())(**request)
    assert panel.startswith("<div class='cmpf-error' role='alert'>")
    assert message in panel


def test_an_unexpected_error_tells_its_kind_and_logs_the_rest(
    photo: str, caplog: pytest.LogCaptureFixture
) -> None:
    segmenter = Segmenter(Recorder(ZeroDivisionError("inner detail")), Limits())  # type: ignore[arg-type]
    with caplog.at_level(logging.ERROR):
        panel = segmenter(photo, ["cat"], "panoptic")
    assert "ZeroDivisionError" in panel
    assert "inner detail" not in panel
    assert "inner detail" in caplog.text


def test_the_ensemble_is_asked_for_only_where_it_exists(photo: str) -> None:
    recorder = Recorder(ZeroDivisionError())
    segmenter = Segmenter(recorder, Limits())  # type: ignore[arg-type]
    for settings in (
        None,
        mask_ensemble(),
    ):
        recorder.mask_ensemble = settings
        for task in ("panoptic", "semantic"):
            segmenter(photo, ["cat"], task, ensemble=True)
    assert [call["ensemble"] for call in recorder.calls] == [False, False, True, True]
    assert {call["min_score"] for call in recorder.calls} == {0.3}
    assert recorder.calls[0]["words"] == ["cat"]
    assert recorder.calls[0]["shape"] == (40, 56, 3)


def test_an_upload_is_checked_at_once(predictor: Predictor, photo: str, tmp_path: Path) -> None:
    segmenter = Segmenter(predictor, Limits(max_side=50))
    assert "its longer side has 56 pixels" in segmenter.check(photo)
    assert Segmenter(predictor, Limits()).check(photo) == WELCOME
    assert Segmenter(predictor, Limits()).check(None) == WELCOME


def test_the_page_offers_known_words_and_starts_with_the_first_example(photo: str) -> None:
    pytest.importorskip("gradio", reason="the page needs Gradio (extra: web)")
    example = Example(Path(photo), ("cat", "a <b> word"), "semantic")
    page = build_page(
        Recorder(ValueError()), limits=Limits(queue=3), examples=[example], note="Model: <x>"  # type: ignore[arg-type]
    )  # fmt: skip
    parts = {block.elem_id: block for block in page.blocks.values() if getattr(block, "elem_id", None)}
    assert [name for name, _ in parts["cmpf-words"].choices] == ["cat", "dog", "sky"]
    assert parts["cmpf-words"].value == ["cat", "a <b> word"]
    assert parts["cmpf-task"].value == "semantic"
    assert parts["cmpf-ensemble"].visible is False
    score = parts["cmpf-score"]
    assert (score.minimum, score.maximum, score.value) == (0, 1, Selection().min_score)
    assert page._queue.max_size == 3
    head = next(
        block.value for block in page.blocks.values() if "cmpf-head" in str(getattr(block, "value", ""))
    )
    assert "Model: &lt;x&gt;" in head
    assert all(function.api_visibility == "private" for function in page.fns.values())


def test_without_gradio_the_error_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(CMPFError, match=r"needs Gradio.*pip install 'cmpf\[web\]'"):
        import_gradio()


def test_the_path_of_an_upload_is_taken_only_where_there_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"anything")
    assert uploaded_path({"path": str(file)}) == str(file)
    for payload in (None, {"path": None}, {"path": str(tmp_path / "b.png")}):
        assert uploaded_path(payload) is None


def test_a_page_writes_nothing_beside_the_sources() -> None:
    gradio = pytest.importorskip("gradio", reason=NEEDS)
    upload_box(gradio, value=None)
    folder = Path(cmpf.web.__file__).parent
    assert [path.name for path in folder.iterdir() if path.suffix == ".pyi"] == []


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
    assert parse_classes(["cat", " person,  pedestrian ", "grass; sky;\nroad"]) == [
        "cat", "person, pedestrian", "grass", "sky", "road"
    ]  # fmt: skip
    assert parse_classes("cat; dog") == ["cat", "dog"]


def test_what_is_said_twice_counts_once_and_the_first_spelling_stays() -> None:
    assert parse_classes(["Cat", "dog", "cat", "DOG;bird"]) == ["Cat", "dog", "bird"]


@pytest.mark.parametrize("chips", [None, [], "", [" ", ";", ","]])
def test_no_words_are_an_error_with_an_example(chips: list[str] | str | None) -> None:
    with pytest.raises(VocabularyError, match="no classes; enter the names of what to find, such as cat"):
        parse_classes(chips)


def test_too_many_and_too_long_words_are_refused() -> None:
    assert len(parse_classes([f"word {i}" for i in range(MAX_CLASSES)])) == MAX_CLASSES
    with pytest.raises(
        VocabularyError, match=f"{MAX_CLASSES + 1} classes; this page takes up to {MAX_CLASSES}"
    ):
        parse_classes([f"word {i}" for i in range(MAX_CLASSES + 1)])
    assert parse_classes(["x" * MAX_CLASS_LENGTH])
    with pytest.raises(VocabularyError, match=f"{MAX_CLASS_LENGTH + 1} characters"):
        parse_classes(["x" * (MAX_CLASS_LENGTH + 1)])


def test_each_example_is_an_image_with_words_and_a_task(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="photographs come with scikit-image")
    examples = write_examples(tmp_path)
    assert [e.path.stem for e in examples] == ["shapes_1", "shapes_2", *PHOTOGRAPHS]
    for example in examples:
        assert example.path.parent == tmp_path
        assert min(Image.open(example.path).size) >= 300
        assert parse_classes(example.words) == list(example.words)
        assert example.task in TASKS
    assert Image.open(examples[0].path).size == (EXAMPLE_SIZE, EXAMPLE_SIZE)


def test_without_scikit_image_the_generated_images_remain(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "skimage", None)
    assert len(write_examples(tmp_path)) == len(SEEDS)
