# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Logging to the terminal and to the run's log file, and a report of the software and hardware of a run."""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from tqdm import tqdm

from cmpf.common import distributed
from cmpf.common.cpu import cpu_info, usable_cores
from cmpf.errors import ConfigError, summary

FILE_ONLY = {"file_only": True}  # logger.info(..., extra=FILE_ONLY) keeps a message off the terminal
LOG_FILE = "log.txt"
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


class _TerminalHandler(logging.Handler):
    """Prints above a progress bar without breaking it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except (OSError, ValueError):
            self.handleError(record)


@contextmanager
def logging_to(folder: Path) -> Iterator[logging.Logger]:
    """Within the block, the "cmpf" logger writes to the terminal and appends to FOLDER/log.txt.

    Python's warnings go to the file only: most come from dependencies, and users cannot act on them. With several
    processes, rank 0 alone writes to the terminal; rank 1 writes to log_rank1.txt, and so on.

    Args:
        folder: created if missing.
    Yields:
        The "cmpf" logger, at level INFO.
    Raises:
        ConfigError: the file cannot be written.
    """
    terminal = _TerminalHandler()
    main = distributed.is_main()
    terminal.addFilter(lambda record: main and not getattr(record, "file_only", False))
    terminal.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%m/%d %H:%M:%S"))
    name = LOG_FILE if main else f"log_rank{distributed.rank()}.txt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = logging.FileHandler(folder / name, encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"OUTPUT_DIR {folder}: {name} cannot be written ({summary(error)}); get the right to write there, or "
            "choose another OUTPUT_DIR"
        ) from error
    file.setFormatter(logging.Formatter("[%(asctime)s] %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    logger, warned = logging.getLogger("cmpf"), logging.getLogger("py.warnings")
    before = (logger.level, logger.propagate, warned.propagate)
    logger.setLevel(logging.INFO)
    logger.propagate = warned.propagate = False
    logger.addHandler(terminal)
    logger.addHandler(file)
    warned.addHandler(file)
    logging.captureWarnings(True)
    try:
        yield logger
    finally:
        logging.captureWarnings(False)
        logger.removeHandler(terminal)
        logger.removeHandler(file)
        warned.removeHandler(file)
        logger.level, logger.propagate, warned.propagate = before
        file.close()


def environment_report() -> str:
    """Versions, processor, GPUs, threads and git commit, one name and value per line."""
    rows = {
        "python": f"{platform.python_version()} ({sys.executable})",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": (
            f"{processor_name()}, {usable_cores()} of {os.cpu_count()} cores, {torch.get_num_threads()} threads"
        ),
        "gpus": _gpus(),
        "torch": torch.__version__,
        **{package: _version(package) for package in PACKAGES},
        "git commit": git_commit(Path(__file__).resolve().parents[2]) or "not a git checkout",
    }
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def git_commit(folder: Path) -> str | None:
    """Commit of the git checkout at `folder`, with "+ changes" if files were modified; None if it is not a checkout."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
        return done.stdout.strip()

    try:
        # An installed package may lie inside another repository, whose commit says nothing about it.
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


def processor_name() -> str:
    """The processor's model name from /proc/cpuinfo, or what the platform module reports."""
    return cpu_info("model name") or platform.processor() or platform.machine() or "unknown"
