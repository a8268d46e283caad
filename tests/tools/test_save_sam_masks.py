# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Masks of a few ShapeWorld images with the tiny SAM that the package ships."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from cmpf.cli import sam_masks as save_sam_masks
from cmpf.cli.command import command_parser
from cmpf.config import Config, get_cfg
from cmpf.data import get_dataset
from cmpf.factory import build_evaluation, build_model, build_test_loader, sam_masks
from cmpf.shapeworld.__main__ import main as write_shapeworld

ROOT = Path(__file__).resolve().parents[2]
CONFIG = "shapes/cmpf_tiny"
SMALL = ["NUM_THREADS", "1", "TEST.ENSEMBLE.POINTS_PER_SIDE", "3", "MODEL.DEVICE", "cpu"]
IMAGES = 4


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root of the datasets, with four validation images."""
    root = tmp_path_factory.mktemp("datasets")
    arguments = ["--out", str(root / "shapeworld"), "--train", "1", "--val", str(IMAGES), "--jobs", "1"]
    assert write_shapeworld(arguments) == 0
    return root


@pytest.fixture(autouse=True)
def _root(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(world))


@pytest.fixture(scope="module")
def masks(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Masks of all images."""
    folder = tmp_path_factory.mktemp("masks")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DETECTRON2_DATASETS", str(world))
        assert run(folder) == 0
    return folder


def run(output: Path, *options: str, changes: tuple[str, ...] = ()) -> int:
    return save_sam_masks.main(["--config-file", CONFIG, *options, "--output", str(output), *SMALL, *changes])


def contents(folder: Path) -> dict[str, bytes]:
    """What an evaluation reads; zip members carry the time they were written."""
    import numpy as np

    found = {}
    for path in sorted(folder.glob("*.npz")):
        with np.load(path) as file:
            found[path.name] = b"".join(file[name].tobytes() for name in sorted(file))
    return found


def configuration(*changes: str) -> Config:
    """Two images a batch, so that online masks come from a batch too; every mask has a vote."""
    return get_cfg(
        CONFIG, [*SMALL, "TEST.IMS_PER_BATCH", "2", "TEST.ENSEMBLE.SCORE_THRESHOLD", "0.0", *changes]
    )


def test_evaluations_with_online_and_cached_masks_are_identical(masks: Path) -> None:
    sources = {
        "online": (),
        "cache": ("TEST.ENSEMBLE.SOURCE", "cache", "TEST.ENSEMBLE.CACHE_DIR", str(masks)),
        "none": ("TEST.ENSEMBLE.ENABLED", "False"),
    }
    labels, scores, results = {}, {}, {}
    for name, changes in sources.items():
        kept: list[torch.Tensor] = []
        for output in ("labels", "scores"):
            cfg = configuration(*changes, "MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT", output)
            torch.manual_seed(0)  # of the untrained decoder
            model = build_model(cfg).eval()
            dataset = get_dataset("shapes_val")
            with torch.inference_mode():
                for batch in build_test_loader(cfg, dataset):
                    kept += [result["sem_seg"] for result in model.infer(batch, dataset.vocabulary)]
            if output == "labels":
                results[name] = build_evaluation(cfg, model)()
        labels[name], scores[name] = kept[:IMAGES], kept[IMAGES:]
    for cached, online in zip(
        labels["cache"] + scores["cache"], labels["online"] + scores["online"], strict=True
    ):
        assert torch.equal(cached, online)
    assert repr(results["cache"]) == repr(results["online"])  # some metrics are nan
    assert any(not torch.equal(a, b) for a, b in zip(scores["online"], scores["none"], strict=True))


def test_two_processes_make_the_files_of_one(
    masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--jobs", "2") == 0
    assert contents(tmp_path) == contents(masks)
    assert len(contents(masks)) == IMAGES
    assert "4 images: 4 generated, 0 cached" in capsys.readouterr().out


def test_shards_make_the_whole_together(
    masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in ("0/3", "1/3", "2/3"):
        assert run(tmp_path, "--shard", place) == 0
    shown = capsys.readouterr().out
    assert [line.split(":")[0] for line in shown.splitlines()] == ["2 images", "1 images", "1 images"]
    assert contents(tmp_path) == contents(masks)


def test_whole_files_are_kept_and_damaged_ones_made_again(
    masks: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(masks, tmp_path / "copy")
    first, second, *others = sorted(copy.glob("*.npz"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:1000])
    before = {path: path.stat().st_mtime_ns for path in others}
    assert run(copy) == 0
    assert "4 images: 2 generated, 2 cached" in capsys.readouterr().out
    assert contents(copy) == contents(masks)
    assert {path: path.stat().st_mtime_ns for path in others} == before


@pytest.mark.parametrize("jobs", ["1", pytest.param("2", marks=pytest.mark.slow)])
def test_a_killed_run_goes_on_where_it_was(masks: Path, tmp_path: Path, world: Path, jobs: str) -> None:
    copies = [world / "shapeworld" / "val" / "images"]
    many = tmp_path / "many"  # more images than are done when the signal comes
    many.mkdir()
    for index in range(25):
        for source in sorted(copies[0].glob("*")):
            content = source.read_bytes() + bytes([index])  # the same image, another file
            (many / f"{index}_{source.name}").write_bytes(content)
    command = [sys.executable, str(ROOT / "tools" / "save_sam_masks.py"), "--config-file", CONFIG]
    command += ["--images", str(many), "--output", str(tmp_path / "masks"), "--jobs", jobs, *SMALL]
    process = subprocess.Popen(command, cwd=tmp_path, start_new_session=True)
    deadline = time.monotonic() + 200
    while len(list((tmp_path / "masks").glob("[0-9a-f]*.npz"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    made = contents(tmp_path / "masks")  # each is whole
    assert 2 <= len(made) < 100
    for path in sorted(many.iterdir())[: 100 - 4]:
        path.unlink()
    assert run(tmp_path / "masks", "--images", str(many)) == 0
    after = contents(tmp_path / "masks")
    assert {name: after[name] for name in made} == made


def test_damaged_images_are_named_at_the_end_and_the_others_done(
    tmp_path: Path, world: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    source = sorted((world / "shapeworld" / "val" / "images").glob("*"))[0]
    (folder / "inside").mkdir(parents=True)
    shutil.copy(source, folder / "inside" / source.name)
    (folder / "a.jpg").write_bytes(b"no image")
    (folder / "z.png").write_bytes(source.read_bytes()[:200])
    (folder / "notes.txt").write_text("not looked at")
    assert run(tmp_path / "masks", "--images", str(folder)) == 1
    captured = capsys.readouterr()
    assert "3 images: 1 generated, 0 cached" in captured.out
    lines = [line for line in captured.err.splitlines() if line.startswith("damaged: ")]
    assert len(lines) == 2
    assert str(folder / "a.jpg") in lines[0]
    assert str(folder / "z.png") in lines[1]
    assert len(contents(tmp_path / "masks")) == 1


def test_a_process_that_dies_is_told_with_what_to_do(
    world: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam_masks, "_initialize", os.abort)  # each process ends as it begins
    assert run(tmp_path, "--jobs", "2") == 1
    assert "error: a process died, possibly out of memory; run" in capfd.readouterr().err


def test_masks_of_a_folder_serve_a_dataset_with_the_same_images(
    masks: Path, tmp_path: Path, world: Path
) -> None:
    assert run(tmp_path, "--images", str(world / "shapeworld" / "val" / "images")) == 0
    assert contents(tmp_path) == contents(masks)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_another_setting_needs_another_folder(
    masks: Path, jobs: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(masks, "--jobs", jobs, changes=("TEST.ENSEMBLE.MIN_AREA", "51")) == 1
    error = capfd.readouterr().err
    assert "made with TEST.ENSEMBLE.MIN_AREA 50, wanted is 51" in error
    assert error.count("\n") == 1


def test_a_test_size_of_its_own_has_masks_of_its_own(tmp_path: Path) -> None:
    cfg = configuration("INPUT.MIN_SIZE_TEST", "100", "INPUT.MAX_SIZE_TEST", "150")
    found = sam_masks.dataset_images(cfg, ["shapes_val"])
    assert [source.test_size for source in found] == [(100, 150)] * IMAGES


def test_an_image_of_two_datasets_is_made_once() -> None:
    assert len(sam_masks.dataset_images(configuration(), ["shapes_val", "shapes_val"])) == IMAGES


@pytest.mark.parametrize(
    ("options", "changes", "told"),
    [
        (["--dataset", "shapes_vall"], (), "did you mean shapes_val?"),
        (["--images", "nowhere"], (), "nowhere: no such folder"),
        ([], ("DATASETS.TEST", "()"), "no images: give --dataset NAME"),
        (["--num-gpus", "99"], (), "--num-gpus 99: "),
        ([], ("TEST.ENSEMBLE.SAM_NAME", "vit_x"), "SAM 'vit_x' is unknown"),
    ],
)
def test_a_wrong_command_is_one_line_of_error(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    changes: tuple[str, ...],
    told: str,
) -> None:
    assert run(tmp_path, *options, changes=changes) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert told in error
    assert error.count("\n") == 1


def test_an_empty_folder_and_a_missing_output_are_errors(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "--images", str(tmp_path)) == 1
    assert "no image in this folder" in capsys.readouterr().err
    assert save_sam_masks.main(["--config-file", CONFIG]) == 1
    assert "give --output DIR, or TEST.ENSEMBLE.CACHE_DIR DIR" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert run(tmp_path / "file") == 1
    assert capsys.readouterr().err == f"error: {tmp_path / 'file'}: File exists (--debug shows where)\n"


@pytest.mark.parametrize(
    ("option", "value", "told"),
    [
        ("--jobs", "-1", "expected a whole number from 1"),
        ("--num-gpus", "-1", "expected a whole number from 0"),
        ("--shard", "2/2", "expected I/N with I from 0 to N - 1, such as 0/8, got 2/2"),
        ("--shard", "half", "expected I/N"),
    ],
)
def test_numbers_out_of_range_are_a_usage_error(
    option: str, value: str, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run(Path("unused"), option, value)
    assert caught.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("jobs", "gpus", "devices"),
    [
        (None, None, [None]),
        (None, "0", ["cpu"]),
        ("2", "0", ["cpu", "cpu"]),
        (None, "2", ["cuda:0", "cuda:1"]),
        ("3", "2", ["cuda:0", "cuda:1", "cuda:0"]),
    ],
)
def test_processes_share_the_gpus_out(
    monkeypatch: pytest.MonkeyPatch, jobs: str | None, gpus: str | None, devices: list[str | None]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    options = [*(["--jobs", jobs] if jobs else []), *(["--num-gpus", gpus] if gpus else [])]
    arguments = command_parser(save_sam_masks.add_parser, save_sam_masks.COMMAND).parse_args(
        ["--config-file", CONFIG, *options]
    )
    plan = save_sam_masks.plan(arguments, configuration(), "masks")
    assert [job.device for job in plan] == devices
    assert {job.threads for job in plan} == {1}  # NUM_THREADS
