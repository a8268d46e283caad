# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import re
from pathlib import Path

import pytest

from cmpf.cli import main
from cmpf.cli.models import ADE, warn_of_photographs
from cmpf.config import config_root
from cmpf.weights.download import partial_path
from cmpf.weights.zoo import published_file, small_file
from cmpf.weights.zoo_entries import METHODS, zoo


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path))
    return tmp_path


def table(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """The table's lines by their first word."""
    assert main(["models"]) == 0
    return {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}


def test_the_table_fits_a_terminal_of_100_columns_and_names_every_model(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = table(capsys)
    assert max(map(len, lines.values())) <= 100
    for name, entry in zoo().items():
        assert entry.license in lines[name]
        assert f" {entry.disk / 1000:.1f} " in lines[name]
        if entry.method:
            assert METHODS[entry.method].title in lines[name]
    assert "25.9" in lines["cmpf_convnext_large"]  # PQ on ADE20K
    assert lines["cmpf_tiny"].endswith("yes")


def test_the_table_says_what_is_here(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "cmpf_r50x64"
    assert table(capsys)[name].endswith("no")
    target = published_file(name, zoo()[name])
    target.parent.mkdir(parents=True)
    partial_path(target).touch()
    assert table(capsys)[name].endswith("part")
    partial_path(target).rename(target)
    assert table(capsys)[name].endswith("yes")
    target.rename(small_file(name))
    assert table(capsys)[name].endswith("yes")


@pytest.mark.parametrize("name", list(zoo()))
def test_a_model_is_told_with_its_license_its_files_and_its_citation(
    cache: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["models", name]) == 0
    told, entry = capsys.readouterr().out, zoo()[name]
    for part in (entry.config, entry.license, entry.best, f"--model {name}"):
        assert part in told
        assert part
    if entry.drive:
        assert f"https://drive.google.com/file/d/{entry.drive}/view" in told
        assert str(published_file(name, entry)) in told
        assert (f"{entry.sha256} (published)" if entry.sha256 else "none is published") in told
        assert METHODS[entry.method].citation in told


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["fclip"], 1, r"the zoo has no model 'fclip'\. It has cmpf_tiny"),
        (["pull", "cmpf_tiny", "fclip"], 1, "the zoo has no model 'fclip'"),
        (["pull"], 2, "pull needs the NAME of a model"),
        (["cmpf_tiny", "cmpf_r50x64"], 2, "expected one NAME, or pull NAME"),
    ],
)
def test_a_wrong_use_is_one_line(
    cache: Path, capsys: pytest.CaptureFixture[str], words: list[str], code: int, message: str
) -> None:
    try:
        found = main(["models", *words])
    except SystemExit as stop:
        found = int(stop.code or 0)
    told = capsys.readouterr()
    assert (found, told.out) == (code, "")
    assert re.search(message, told.err)


def test_pull_brings_a_model_to_this_machine_and_says_where_it_is(
    cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["models", "pull", "cmpf_tiny"]) == 0
    assert re.match(r"cmpf_tiny: ready, .*cmpf_tiny_decoder\.safetensors \(\d+ MB\)", capsys.readouterr().out)
    assert main(["models", "pull", "cmpf_r50x64"]) == 1  # tests are offline
    told = capsys.readouterr().err
    assert "weight file of cmpf_r50x64 is not on this machine" in told
    assert "HF_HUB_OFFLINE" in told
    assert len(told.splitlines()) == 1


def test_images_that_are_not_generated_are_told_which_model_knows_photographs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene, photo = tmp_path / "val" / "images" / "000001.png", tmp_path / "photo.png"
    scene.parent.mkdir(parents=True)
    note = (
        "note: cmpf_tiny was trained on generated shapes only. For photographs, download a full-size model:\n"
        '  cmpf predict photo.jpg --model fcclip_convnext_large --vocabulary "cup; spoon; table"'
    )
    for name in ("complete.json", "vocabulary_all.txt", "vocabulary_seen.txt"):
        warn_of_photographs([scene])
        assert capsys.readouterr().err.count(note) == 1
        (tmp_path / name).touch()
    warn_of_photographs([scene, scene])
    assert capsys.readouterr().err == ""
    for images in ([photo], [scene, photo], []):  # of a camera there are none
        warn_of_photographs(images)
        assert capsys.readouterr().err.count(note) == 1


def test_the_page_of_models_has_a_row_for_each_with_what_the_zoo_says() -> None:
    page = (config_root().parent / "docs" / "models.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    for name, entry in zoo().items():
        for text in (entry.best, entry.license, f"{entry.disk / 1000:.2f}"):
            assert f"| {text} |" in rows[name]
        figures = entry.published.get(ADE, {})
        shown = [figures[key] for key in ("panoptic/PQ", "segm/AP", "sem_seg/mIoU") if key in figures]
        assert all(f"{value:g}" in rows[name] for value in shown)
