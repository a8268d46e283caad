# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What a run ran on, for the top of its log."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from cmpf.common.cpu import usable_cores

PACKAGES = (
    "cmpf",
    "torchvision",
    "numpy",
    "scipy",
    "open_clip_torch",
    "timm",
    "segment_anything",
    "safetensors",
)


def environment_report() -> str:
    """Versions, processor, GPUs, threads and git commit, one `name: value` a line."""
    rows = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{_processor()}, {usable_cores()} of {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "gpus": _gpus(),
        "torch": torch.__version__,
        **{package: _version(package) for package in PACKAGES},
        "git commit": git_commit(Path(__file__).resolve().parents[2]) or "not a git checkout",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout whose root is `folder`, with "+ changes" if files differ; None if it is none."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        # An installed package may lie inside somebody else's repository, whose commit says nothing about it.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        changes = " + changes" if git("status", "--porcelain", "--untracked-files=no") else ""
        return git("rev-parse", "HEAD") + changes
    except (OSError, subprocess.SubprocessError):
        return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _gpus() -> str:
    if not torch.cuda.is_available():
        return "none"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return f"{', '.join(names)} (CUDA {torch.version.cuda})"


def _processor() -> str:
    """The model's name where Linux tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
