# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Trials with their findings, and a table of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from cmpf.errors import MAX_LENGTH, CMPFError

HANG_SECONDS = 10


@dataclass
class Trial:
    """A row of the table.

    Attributes:
        name: title of the row.
        tried: number of attempts.
        refused: attempts that raised one of CMPF's errors.
        figures: measured values, as text.
        findings: unexpected behavior.
        seconds: duration.
    """

    name: str
    tried: int = 0
    refused: int = 0
    figures: list[str] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def attempt(self, what: str, call: Callable[[], object]) -> object:
        """Calls a function with a hostile input: it must return or raise a CMPFError within HANG_SECONDS."""
        self.tried += 1
        try:
            with _alarm():
                return call()
        except CMPFError as error:
            self.refused += 1
            if len(str(error)) > MAX_LENGTH + 100 or "\x1b" in str(error):
                self.findings.append(
                    f"{what}: an error message of {len(str(error))} characters, or with control characters"
                )
        except _HangError:
            self.findings.append(f"{what}: more than {HANG_SECONDS} s")
        except Exception as error:  # every other error is a finding
            self.findings.append(f"{what}: {type(error).__name__}: {str(error)[:120]}")
        return None


class _HangError(BaseException):
    pass


@contextmanager
def _alarm() -> Iterator[None]:
    def late(number: int, frame: FrameType | None) -> None:
        raise _HangError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(HANG_SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def timed(trial: Trial) -> Iterator[None]:
    """Measures the duration of the block."""
    started = time.perf_counter()
    yield
    trial.seconds = time.perf_counter() - started


def resident_mib() -> float:
    """Resident memory of this process in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def table(trials: list[Trial]) -> str:
    """The trials as a Markdown table."""
    lines = [
        "| test | inputs | rejected with a CMPF error | findings | figures | seconds |",
        "|---|---:|---:|---:|---|---:|",
    ]
    for trial in trials:
        row = (
            trial.name,
            f"{trial.tried:,}",
            f"{trial.refused:,}",
            str(len(trial.findings)),
            "; ".join(trial.figures),
            f"{trial.seconds:.0f}",
        )
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines) + "\n"
