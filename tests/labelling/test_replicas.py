# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Several models at work beside each other: how many, in how much memory, and with the results of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from cmpf.labelling import replicas
from cmpf.labelling.prefetch import Budget, BudgetUsage
from cmpf.labelling.replicas import CHUNK_SIZE, MIN_IMAGES_PER_PROCESS, _chunks, default_num_processes
from cmpf.shapeworld.scene import generate_scene

GIB = 2**30


def replica(weights: int = 4, device: str = "cpu") -> Any:
    model = SimpleNamespace(
        device=torch.device(device),
        state_dict=lambda: {"w": torch.empty(weights, dtype=torch.uint8, device="meta")},
    )
    return SimpleNamespace(predictor=SimpleNamespace(model=model))


@pytest.mark.parametrize(
    ("loaded", "images", "memory", "processes"),
    [
        (replica(), 1000, 64 * GIB, 4),  # one a core
        (replica(), 3 * MIN_IMAGES_PER_PROCESS, 64 * GIB, 3),  # a further one would have little to do
        (replica(), 1, 64 * GIB, 1),
        (replica(), 1000, 4 * GIB, 2),  # half of the memory, 1 GiB each
        (replica(3 * GIB), 1000, 24 * GIB, 2),  # 24 / 2 / (2 * 3)
        (replica(3 * GIB), 1000, GIB, 1),
        (replica(device="cuda"), 1000, 64 * GIB, 1),
    ],
)
def test_a_cpu_has_a_model_a_core_as_far_as_there_are_images_and_memory(
    loaded: Any, images: int, memory: int, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replicas, "usable_cores", lambda: 4)
    monkeypatch.setattr(replicas, "available_memory", lambda: memory)
    assert default_num_processes(loaded, images) == processes


def test_budgets_of_several_processes_are_bounded_together() -> None:
    usage = BudgetUsage()
    one, other = (Budget(10, lambda size: size, usage) for _ in range(2))
    assert one.acquire(6, force=False)
    assert not other.acquire(5, force=False)
    waiting = threading.Thread(target=lambda: other.acquire(5, force=True))
    waiting.start()
    time.sleep(0.05)
    assert waiting.is_alive()
    one.release(6)
    waiting.join(10)
    assert not waiting.is_alive()
    assert not one.acquire(6, force=False)
    other.close()  # as after an error
    assert one.acquire(40, force=False)
    assert usage.total.value == 40


def test_who_holds_images_that_wait_for_another_does_not_wait_for_budget() -> None:
    usage = BudgetUsage()
    one, other = (Budget(10, lambda size: size, usage) for _ in range(2))
    assert one.acquire(4, force=True)
    assert other.acquire(5, force=True)
    assert one.acquire(9, force=True)  # at once: the batch of the 4 begins with it


def test_processes_get_many_images_at_a_time_and_fewer_toward_the_end() -> None:
    images = list(range(200))
    chunks = list(_chunks(images, 2))  # type: ignore[arg-type]
    assert [image for chunk in chunks for image in chunk] == images
    sizes = [len(chunk) for chunk in chunks]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (CHUNK_SIZE, 1)
    assert list(_chunks([], 2)) == []


@pytest.mark.slow
def test_a_command_on_several_cores_finds_what_it_finds_on_one(tmp_path: Path) -> None:
    """The processes are forks that share the model; only a fresh process forks."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(2 * MIN_IMAGES_PER_PROCESS):
        Image.fromarray(generate_scene(number, size=96, seen_only=False).image).save(photos / f"{number}.png")
    found = []
    for name, more in (("one", ["--processes", "1"]), ("auto", []), ("three", ["--processes", "3"])):
        program = [
            sys.executable,
            "-m",
            "cmpf",
            "predict",
            str(photos),
            "--formats",
            "overlay",
            "coco",
            *more,
        ]
        words = [
            "--vocabulary",
            "red circle; brick; sky",
            "--device",
            "cpu",
            "--output",
            str(tmp_path / name),
        ]
        # Not the one thread of tests: a process that has computed on several must not be forked.
        environment = {**os.environ, "OMP_NUM_THREADS": "2"}
        done = subprocess.run(
            [*program, *words], env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr
        lines = (tmp_path / name / ".cmpf/journal.jsonl").read_text().splitlines()
        found.append({entry["uri"]: entry for entry in map(json.loads, lines)})
    for other in found[1:]:
        assert found[0].keys() == other.keys()
        for uri, entry in found[0].items():
            same = other[uri]
            assert (entry["name"], entry["sha256"]) == (same["name"], same["sha256"])
            assert [s["category"] for s in entry["segments"]] == [s["category"] for s in same["segments"]]
            assert [s["score"] for s in entry["segments"]] == pytest.approx(
                [s["score"] for s in same["segments"]], abs=1e-4
            )
