# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""`cmpf predict` over folders: it goes on where it was, loses nothing, and repeats nothing."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cmpf.cli import main
from cmpf.inference.settings import Prepared
from cmpf.labelling.journal import ResultsFolder
from cmpf.labelling.pipeline import _DecodedImage, batch_by_size
from cmpf.labelling.prefetch import Budget, prefetch
from cmpf.labelling.sources import Source
from cmpf.labelling.writers import images as image_writers
from cmpf.shapeworld.scene import generate_scene

WORDS = "red circle; blue square; green star; brick; sky"
SMALL = ("--opts", "INPUT.MIN_SIZE_TEST", "64", "INPUT.MAX_SIZE_TEST", "128", "TEST.ENSEMBLE.ENABLED", "False",
         "NUM_THREADS", "1")  # fmt: skip


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four images of two sizes."""
    folder = tmp_path_factory.mktemp("scenes")
    for number in range(4):
        pixels = np.asarray(generate_scene(number, size=96, seen_only=False).image)
        Image.fromarray(pixels[: 96 if number % 2 else 72]).save(folder / f"scene_{number}.png")
    return folder


@pytest.fixture
def photos(scenes: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(scenes, tmp_path / "photos"))


def command(photos: Path, *more: str, formats: str = "overlay coco") -> list[str]:
    out = ("--output", str(photos.parent / "out"), "--formats", *formats.split())
    return ["predict", str(photos), "--vocabulary", WORDS, "--device", "cpu", *out, *more, *SMALL]


def coco(photos: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((photos.parent / "out/annotations/instances.json").read_text())
    return content


def finished(photos: Path) -> list[str]:
    """Names of the images in the journal, each as often as it is there."""
    lines = (photos.parent / "out/.cmpf/journal.jsonl").read_text().splitlines()
    return sorted(json.loads(line)["name"] for line in lines)


def test_a_second_run_does_what_is_new_and_the_dataset_has_all(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    late = photos / "scene_3.png"
    late.rename(photos.parent / "late.png")
    assert main(command(photos)) == 0
    (photos.parent / "late.png").rename(late)
    changed = (photos.parent / "out/scene_0.jpg").stat().st_mtime_ns
    capsys.readouterr()
    assert main(command(photos)) == 0
    said = capsys.readouterr()
    assert [line.split(":")[0] for line in said.out.splitlines()] == [str(late)]
    assert "1 image in " in said.err
    assert "3 images already finished" in said.err
    assert (photos.parent / "out/scene_0.jpg").stat().st_mtime_ns == changed
    found = coco(photos)
    assert sorted(image["file_name"] for image in found["images"]) == [f"scene_{n}.png" for n in range(4)]
    assert len({annotation["id"] for annotation in found["annotations"]}) == len(found["annotations"]) > 0
    assert min(annotation["score"] for annotation in found["annotations"]) >= 0.3


def test_a_finished_run_is_known_without_the_model(photos: Path) -> None:
    assert main(command(photos)) == 0
    (photos.parent / "out/annotations/instances.json").unlink()  # it is made of the journal again
    code = (
        "import sys, cmpf.cli\n"
        f"print(cmpf.cli.main({command(photos)!r}), 'torch' in sys.modules, file=sys.stdout)"
    )
    start = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "0 False\n", done.stderr
    assert "4 images already finished" in done.stderr
    assert time.perf_counter() - start < 20  # on a busy machine; 0.5 s of one core
    assert len(coco(photos)["images"]) == 4


def test_other_options_are_refused_unless_the_old_results_go(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(photos)) == 0
    assert main(command(photos, "--min-score", "0.9")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert "min_score null there, 0.9 now" in error
    assert "--overwrite to start over" in error
    before = coco(photos)
    assert main(command(photos, "--min-score", "0.9", "--overwrite", "--model", "cmpf_tinny")) == 1
    assert main(command(photos, "--min-score", "0.9", "--overwrite", "--device", "cuda:8,9")) == 1
    assert coco(photos) == before  # a typing error costs no results
    assert main(command(photos, "--min-score", "0.9", "--overwrite")) == 0
    assert min([a["score"] for a in coco(photos)["annotations"]], default=1) >= 0.9
    # A format that is made of what is there needs no new folder.
    assert main(command(photos, "--min-score", "0.9", formats="overlay coco coco-polygons")) == 0
    assert (photos.parent / "out/annotations/instances_polygons.json").is_file()


def test_overwrite_makes_the_datasets_anew_even_if_the_journal_is_as_long(photos: Path) -> None:
    output = [
        "--output",
        str(photos.parent / "out"),
        "--formats",
        "coco",
        "--min-score",
        "1",
        "--device",
        "cpu",
    ]
    for word in ("red circle", "blue cube"):  # nothing is found, so the journals are equal
        assert main(["predict", str(photos), "--vocabulary", word, *output, "--overwrite", *SMALL]) == 0
    assert [category["name"] for category in coco(photos)["categories"]] == ["blue cube"]


def test_the_table_of_a_run_can_be_exported(photos: Path) -> None:
    assert main(command(photos, formats="coco parquet")) == 0
    export = ["label", "export", str(photos.parent / "out"), "--output", str(photos.parent / "exported")]
    assert main([*export, "--format", "coco"]) == 0
    found = json.loads((photos.parent / "exported/annotations/instances.json").read_text())
    assert found == coco(photos)


def test_an_image_that_failed_is_tried_again(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = (photos / "scene_1.png").read_bytes()
    (photos / "scene_1.png").write_bytes(whole[:200])
    assert main(command(photos)) == 1
    with (photos.parent / "out/errors.csv").open(newline="") as file:
        assert [row["image"] for row in csv.DictReader(file)] == [str(photos / "scene_1.png")]
    assert len(coco(photos)["images"]) == 3
    (photos / "scene_1.png").write_bytes(whole)
    assert main(command(photos)) == 0
    assert not (photos.parent / "out/errors.csv").exists()
    assert len(coco(photos)["images"]) == 4


def test_a_pipe_among_the_images_is_an_error_and_does_not_block(photos: Path) -> None:
    os.mkfifo(photos / "pipe.png")
    assert main(command(photos)) == 1
    assert (photos.parent / "out/errors.csv").read_text().count(
        "pipe.png"
    ) == 2  # the name, and in the message
    assert len(coco(photos)["images"]) == 4


def test_a_full_disk_ends_the_run_in_one_line_and_what_is_done_stays(
    photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own, room = image_writers.save_jpeg, [2]

    def full(*given: Any, **options: Any) -> Path:
        room[0] -= 1
        if room[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return own(*given, **options)

    with monkeypatch.context() as patch:
        patch.setattr(image_writers, "save_jpeg", full)
        assert main(command(photos, "--workers", "1")) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert "No space left on device" in error
    assert "run the same command again to resume" in error
    assert finished(photos) == ["scene_0", "scene_1"]
    assert len(coco(photos)["images"]) == 2
    assert main(command(photos)) == 0
    assert finished(photos) == [f"scene_{n}" for n in range(4)]


def test_a_task_that_a_format_cannot_be_made_of_is_refused_before_anything(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(photos, "--task", "semantic")) == 1
    assert "--task semantic: the formats coco are made of instance results" in capsys.readouterr().err
    assert main(command(photos, "--processes", "2", "--device", "cuda:0,1")) == 1
    assert "several devices have one process each" in capsys.readouterr().err
    assert not (photos.parent / "out").exists()


def test_an_overlay_shows_the_task_that_was_chosen_and_no_stuff_is_an_instance(photos: Path) -> None:
    stuff = ("--stuff", "brick; sky", "--task", "instance", "--min-score", "0", "--multi-label")
    assert main(command(photos, *stuff, formats="overlay coco html")) == 0
    assert {a["category_id"] for a in coco(photos)["annotations"]} <= {1, 2, 3}
    page = (photos.parent / "out/index.html").read_text()
    assert '"name": "scene_0"' in page


def test_images_of_one_size_share_a_batch_and_none_waits_for_good() -> None:
    def image(number: int, side: int) -> _DecodedImage:
        from cmpf.inference.settings import Prepared

        content: Any = Prepared(np.zeros((1, 1, 3), np.uint8), {"image": np.zeros((3, side, 8))}, "")  # type: ignore[typeddict-item]
        return _DecodedImage(Source(str(number), str(number), "", ""), "", content if side else "damaged")

    sides = [1, 2, 1, 0, 2, 1, 3, 4, 5, 6, 7, 8]
    found = list(batch_by_size((image(number, side) for number, side in enumerate(sides)), 2))
    given = [[item.source.location for item in batch] for batch in found]
    assert given[:3] == [["0", "2"], ["3"], ["1", "4"]]
    assert sorted(number for batch in given for number in batch) == sorted(map(str, range(12)))
    assert all(len({item.batch_key for item in batch}) == 1 for batch in found)


def test_a_device_that_is_not_there_is_named_in_one_line(
    photos: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(command(photos, "--device", "cuda:8,9")) == 1
    error = capfd.readouterr().err
    assert error.startswith("cmpf: MODEL.DEVICE cuda:")
    assert error.count("\n") == 1


@pytest.mark.slow
def test_two_processes_find_what_one_finds(photos: Path) -> None:
    assert main(command(photos)) == 0
    shutil.move(photos.parent / "out", photos.parent / "one")
    assert main(command(photos, "--processes", "2")) == 0
    with (
        ResultsFolder.opened(photos.parent / "one") as one,
        ResultsFolder.opened(photos.parent / "out") as two,
    ):
        found = [{entry.name: entry.record for entry in results.entries()} for results in (one, two)]
    assert found[0].keys() == found[1].keys()
    for name, record in found[0].items():
        other = found[1][name]
        assert (record.sha256, len(record.segments)) == (other.sha256, len(other.segments))
        for a, b in zip(record.segments, other.segments, strict=True):
            assert (a.category, a.task) == (b.category, b.task)
            assert a.score == pytest.approx(b.score, abs=1e-4)


@pytest.mark.slow
def test_after_five_kills_every_image_is_there_once_and_whole(photos: Path) -> None:
    sources = sorted(photos.iterdir())
    for number in range(296):
        shutil.copy(sources[number % 4], photos / f"more_{number:03}.png")
    program = [sys.executable, "-m", "cmpf", *command(photos)]
    journal = photos.parent / "out/.cmpf/journal.jsonl"
    for kill in range(5):
        process = subprocess.Popen(program, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen = journal.stat().st_size if journal.exists() else 0
        while process.poll() is None and (
            not journal.exists() or journal.stat().st_size < seen + 2000 * (kill + 1)
        ):
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = len(finished(photos))
    assert 0 < before < 300
    assert main(command(photos)) == 0
    names = finished(photos)
    assert len(names) == len(set(names)) == 300
    assert len(coco(photos)["images"]) == 300
    for path in (photos.parent / "out").glob("*.jpg"):
        with Image.open(path) as image:
            image.load()
    assert len(list((photos.parent / "out").glob("*.jpg"))) == 300


@pytest.mark.slow
def test_mask_rcnn_of_torchvision_trains_on_the_coco_file(photos: Path) -> None:
    import torch
    from torchvision.datasets import CocoDetection, wrap_dataset_for_transforms_v2
    from torchvision.models.detection import maskrcnn_resnet50_fpn

    assert main(command(photos, "--min-score", "0.1", formats="coco-polygons")) == 0
    annotations = photos.parent / "out/annotations/instances_polygons.json"
    dataset = wrap_dataset_for_transforms_v2(
        CocoDetection(photos, annotations), target_keys=("boxes", "labels", "masks")
    )
    torch.manual_seed(0)
    model = maskrcnn_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=len(WORDS.split(";")) + 1, min_size=64, max_size=96
    ).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    losses = []
    found = [sample for sample in dataset if "masks" in sample[1]]
    for step in range(3):
        image, target = found[step % len(found)]
        pixels = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1) / 255
        assert target["masks"].shape[1:] == pixels.shape[1:]
        loss = sum(model([pixels], [dict(target)]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert all(np.isfinite(losses))


def test_images_at_work_share_a_budget_and_a_large_one_is_at_work_alone() -> None:
    budget = Budget(10, lambda size: size)
    assert [budget.acquire(size, force=False) for size in (4, 5, 3)] == [True, True, False]  # 4 + 5 + 3 > 10
    budget.release(4)
    assert budget.acquire(3, force=False)
    assert not budget.acquire(40, force=False)
    budget.release(5)
    budget.release(3)
    assert budget.acquire(40, force=False)
    assert not budget.acquire(1, force=False)
    assert budget.acquire(1, force=True)


def test_reading_ahead_stays_within_the_budget_and_keeps_the_order() -> None:
    lock, at_work, most = Lock(), set[int](), []
    budget = Budget(10, lambda item: 4)

    def read(item: int) -> int:
        with lock:
            at_work.add(item)
            most.append(len(at_work))
        return item

    done = []
    for item in prefetch(read, range(20), threads=3, budget=budget):
        time.sleep(0.002)
        done.append(item)
        with lock:
            at_work.discard(item)
        budget.release(item)
    assert done == list(range(20))
    assert max(most) <= 2  # 4 + 4 + 4 > 10


def test_a_large_image_does_not_wait_for_others_of_its_size() -> None:
    large = Prepared(np.broadcast_to(np.uint8(0), (3000, 3000, 3)), {"image": torch.zeros(3, 8, 8)}, "a")
    small = Prepared(np.zeros((8, 8, 3), np.uint8), {"image": torch.zeros(3, 8, 8)}, "b")
    images = [_DecodedImage(Source("x", "x", "x", "x"), "", prepared) for prepared in (small, large, small)]
    assert [len(batch) for batch in batch_by_size(images, 2)] == [1, 2]
    assert next(batch_by_size(images, 2))[0].content is large


def test_a_format_that_videos_do_not_have_is_refused_before_anything(
    photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (photos / "clip.mp4").write_bytes(b"no video")
    name, *rest = command(photos, formats="yolo")
    assert main([name, str(photos / "clip.mp4"), *rest]) == 1
    assert "--formats yolo: a video has overlay, semantic" in capsys.readouterr().err
    assert not (photos.parent / "out").exists()
