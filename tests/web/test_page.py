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
from cmpf.errors import CMPFError
from cmpf.inference.settings import Selection
from cmpf.predictor import Predictor
from cmpf.web import Limits, build_page
from cmpf.web.inputs import Example
from cmpf.web.page import Segmenter, import_gradio, upload_box, uploaded_path
from cmpf.web.panel import WELCOME

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
        ({"path": None}, "no image yet; drop one on the box"),
        ({"chips": []}, "no words yet"),
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
