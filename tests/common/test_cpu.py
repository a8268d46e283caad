# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cmpf.common import cpu
from cmpf.common.cpu import available_memory, usable_cores


def container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str) -> None:
    """Takes the place of the control group's file."""
    file = tmp_path / "cpu.max"
    file.write_text(limit)
    monkeypatch.setattr(cpu, "_QUOTA_V2", file)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system has no affinity")
def test_a_process_bound_to_one_core_counts_one() -> None:
    core = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, {{{core}}})\n"
        "from cmpf.common.cpu import usable_cores; print(usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.parametrize(
    ("limit", "cores"),
    [
        ("max 100000", 8),
        ("250000 100000", 3),  # two and a half cores keep three processes busy
        ("50000 100000", 1),
        ("1600000 100000", 8),  # more than the affinity allows
        ("nonsense", 8),
    ],
)
def test_the_quota_of_a_container_counts(
    limit: str, cores: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    container(monkeypatch, tmp_path, limit)
    assert usable_cores() == cores


def test_without_affinity_and_container_all_cores_count(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("_QUOTA_V2", "_QUOTA_V1"):
        monkeypatch.setattr(cpu, name, tmp_path / "absent")
    monkeypatch.delattr("os.sched_getaffinity", raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 12)
    assert usable_cores() == 12
    monkeypatch.setattr("os.cpu_count", lambda: None)
    assert usable_cores() == 1


@pytest.mark.parametrize(
    ("limit", "used", "available"),
    [("max", "0", 3 * 2**20), ("5000000", "4000000", 1_000_000), ("5000000", "6000000", 0)],
)
def test_available_memory_is_what_the_system_and_the_container_leave(
    limit: str, used: str, available: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, content in (
        ("meminfo", "MemTotal: 9000 kB\nMemAvailable: 3072 kB\n"),
        ("max", limit),
        ("now", used),
    ):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr(cpu, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(cpu, "_MEMORY_V2", (tmp_path / "max", tmp_path / "now"))
    assert available_memory() == available
    monkeypatch.setattr(cpu, "_MEMORY", tmp_path / "absent")
    monkeypatch.setattr(cpu, "_MEMORY_V2", (tmp_path / "absent", tmp_path / "absent"))
    assert available_memory() == 2**62
