# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The demo with its two long steps, training and evaluation, replaced by what they leave behind; and its page."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import cmpf
from cmpf import weights
from cmpf.config import get_cfg
from cmpf.factory import build_model
from cmpf.shapeworld.writer import WorldSpec, write_dataset
from demo import quickstart
from demo.page import VIEWS, Example, write_page

PREFIXED = {
    "panoptic": ("PQ", "SQ", "RQ"),
    "sem_seg": ("mIoU",),
    "segm": ("AP",),
    "mask_recall": ("recall_50", "recall_75"),
}
RESULTS = {
    task: {prefix + name: 40.0 + len(prefix) for prefix in ("", "S_", "U_") for name in names}
    for task, names in PREFIXED.items()
}


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A validation image on disk; commands are noted, and training leaves random weights and numbers."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_dataset(tmp_path / "shapeworld", WorldSpec(train=1, val=1), progress=False)
    monkeypatch.setattr(quickstart, "EXAMPLES", 1)
    noted: list[tuple[str, ...]] = []

    def run(*command: str) -> None:
        noted.append(command)
        if command[0] != "tools/train_net.py":
            return
        output = Path(command[command.index("OUTPUT_DIR") + 1])
        if "--eval-only" in command:
            (output / "results.json").write_text(json.dumps({"shapes_val": RESULTS}))
            return
        output.mkdir(parents=True)
        model = build_model(get_cfg("cmpf_tiny", ["MODEL.DEVICE", "cpu"]))
        weights.save(model, output / "model_final.safetensors", metadata={})
        lines = [{"iteration": i, "loss_ce": 9.0 / i, "loss_mask": 1.0, "loss_dice": 2.0} for i in (20, 40)]
        (output / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))

    monkeypatch.setattr(quickstart, "run", run)
    return noted


def test_the_demo_ends_in_a_page_with_all_its_images_and_reuses_a_finished_training(
    commands: list[tuple[str, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    assert quickstart.main(["--output", str(output)]) == 0
    said = capsys.readouterr().out
    assert [f"[{n}/5]" in said for n in range(1, 6)] == [True] * 5
    assert str(output / "index.html") in said
    page = (output / "index.html").read_text(encoding="utf-8")
    images = {path.name for path in (output / "images").iterdir()}
    assert len(images) == quickstart.EXAMPLES * len(VIEWS)
    assert all(f"images/{name}" in page for name in images)
    with Image.open(output / "example.png") as figure:
        assert figure.width > 3 * 400
    for text in ("fcclip_convnext_large", "<svg", "42.0"):
        assert text in page

    assert quickstart.main(["--output", str(output), "--words", "red circle; unicorn"]) == 0
    assert [command[0] for command in commands] == ["-m", "tools/train_net.py", "tools/train_net.py", "-m"]
    assert "reusing it" in capsys.readouterr().out
    assert '<span class="word unseen">unicorn</span>' in (output / "index.html").read_text(encoding="utf-8")


def test_overrides_also_replace_the_short_schedule_of_the_demo(
    commands: list[tuple[str, ...]], tmp_path: Path
) -> None:
    assert quickstart.main(["--output", str(tmp_path / "out"), "--overrides", "SOLVER.MAX_ITER", "2"]) == 0
    training = commands[1][commands[1].index("OUTPUT_DIR") :]
    assert get_cfg(quickstart.CONFIG, training[:-2]).SOLVER.MAX_ITER == quickstart.ITERATIONS
    assert get_cfg(quickstart.CONFIG, training).SOLVER.MAX_ITER == 2


def test_a_photograph_needs_words(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        quickstart.main(["--photo", "cup.jpg"])
    assert '--photo needs words to look for: --words "cup; spoon; table"' in capsys.readouterr().err


def test_a_photograph_is_segmented_by_the_full_size_model(
    commands: list[tuple[str, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    load = cmpf.load

    def by_name(model: str, **options: Any) -> cmpf.Predictor:
        loaded.append(model)
        return load("cmpf_tiny", **options)

    monkeypatch.setattr(cmpf, "load", by_name)
    photo = str(Path(quickstart.ROOT) / "demo/shapes.jpg")
    assert quickstart.main(["--output", str(tmp_path / "out"), "--words", "cup", "--photo", photo]) == 0
    assert loaded[-1] == "fcclip_convnext_large"
    assert "images/shapes_panoptic.png" in (tmp_path / "out/index.html").read_text(encoding="utf-8")


def test_a_failing_step_ends_the_demo_with_its_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        quickstart.run("-c", "raise SystemExit(3)")
    assert stop.value.code == 3


EXAMPLE = Example(
    name="a_1", words=["red circle", "<b>sky</b>"], unseen=frozenset(["<b>sky</b>"]), size=(20, 30)
)


class Reader(HTMLParser):
    """Collects images and text, and checks that every element is closed in order."""

    VOID = ("meta", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.images: list[str] = []
        self.text: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.images.append(dict(attrs)["src"] or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def page(tmp_path: Path) -> Reader:
    path = tmp_path / "index.html"
    write_page(
        path,
        lead="A & B",
        tiles=[("57.1", "PQ")],
        examples=[EXAMPLE],
        photographs=[EXAMPLE],
        evaluation_text="text",
        metrics={"seen": {"PQ": 57.123, "AP": math.nan}},
        curve="<svg></svg>",
        commands='make demo WORDS="a; b"',
        footer="end",
    )
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def test_every_example_shows_all_views(tmp_path: Path) -> None:
    assert page(tmp_path).images == [f"images/a_1_{view}.png" for view, _ in VIEWS] * 2


def test_words_are_text_not_markup(tmp_path: Path) -> None:
    assert "<b>sky</b>" in page(tmp_path).text


def test_numbers_have_one_decimal_and_undefined_ones_a_dash(tmp_path: Path) -> None:
    text = page(tmp_path).text
    assert "57.1" in text
    assert "–" in text


def test_nothing_is_left_to_fill_in(tmp_path: Path) -> None:
    page(tmp_path)
    assert "$" not in (tmp_path / "index.html").read_text(encoding="utf-8")
