# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Runs train_net.py in several processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from cmpf.engine.interrupts import StopRequest
from cmpf.errors import CMPFError
from tools.ablation_study.runs import Run

ROOT = Path(__file__).resolve().parents[2]
POLL_SECONDS, REPORT_SECONDS = 0.2, 20.0

Process = subprocess.Popen[bytes]


def start(run: Run) -> Process:
    """Begins a run in one thread, with its output in FOLDER/console.txt."""
    run.folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    with _console(run).open("wb") as console:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "tools" / "train_net.py"), *run.arguments],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C then reaches this process alone, which stops the others in order
        )


class Pool:
    """Works runs off.

    Args:
        jobs: processes at a time.
        start: begins a run; replaced in tests.
    """

    def __init__(self, *, jobs: int, start: Callable[[Run], Process] = start) -> None:
        self._jobs = jobs
        self._start = start
        self._running: dict[Future[int], tuple[Run, Process]] = {}
        self._reported = time.monotonic()

    def work_off(self, runs: Sequence[Run]) -> None:
        """Runs what is not finished, and shows the progress.

        Raises:
            CMPFError: a run failed (those beside it were finished, no other was begun); or a signal came (all
                processes have saved their state and stopped).
        """
        waiting = [run for run in runs if not run.finished()]
        print(f"{len(runs) - len(waiting)} of {len(runs)} runs are there already", flush=True)
        issues: list[str] = []
        with StopRequest() as stop, ThreadPoolExecutor(self._jobs) as pool:
            while self._running or (waiting and not issues):
                if stop.requested:
                    for _, process in self._running.values():
                        process.terminate()
                    break  # the pool waits for them
                if not issues:
                    self._begin(waiting, pool)
                done, _ = wait(self._running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                issues += [issue for future in done if (issue := self._issue(future))]
                self._report(len(waiting))
        if stop.requested:
            raise CMPFError(f"stopped by {stop.signal_name}; the same command goes on where it was")
        if issues:
            raise CMPFError("; ".join(issues))

    def _begin(self, waiting: list[Run], pool: ThreadPoolExecutor) -> None:
        """Fills the free places; whoever needs another run's weights waits for them."""
        for run in list(waiting):
            ready = run.weights_from is None or run.weights_from.finished()
            if ready and len(self._running) < self._jobs:
                waiting.remove(run)
                print(f"begun: {run.title}", flush=True)
                process = self._start(run)
                self._running[pool.submit(process.wait)] = run, process

    def _issue(self, future: Future[int]) -> str:
        """What went wrong with a run that has ended, or ""."""
        run, _ = self._running.pop(future)
        if future.result() == 0 and run.finished():
            print(f"done: {run.title}", flush=True)
            return ""
        lines = _console(run).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        issue = f"{run.title} failed: {lines[-1] if lines else 'no output'} (see {_console(run)})"
        print(issue, flush=True)
        return issue

    def _report(self, waiting: int) -> None:
        if self._running and time.monotonic() - self._reported >= REPORT_SECONDS:
            self._reported = time.monotonic()
            states = [f"{run.title}: {run.progress()}" for run, _ in self._running.values()]
            print(f"{'; '.join(states)}; {waiting} waiting", flush=True)


def _console(run: Run) -> Path:
    return run.folder / "console.txt"
