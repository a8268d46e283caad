# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Ablation studies: plans and runs trainings and evaluations in processes, and summarizes results over seeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from cmpf.config import Config, get_cfg
from cmpf.engine.interrupts import StopRequest
from cmpf.errors import CMPFError, ConfigError
from cmpf.evaluation.results import PROTOCOL
from cmpf.factory.encoders import PROPOSAL_KEYS

# Keys of MODEL.CMPF that affect inference only.
TEST_TIME_KEYS = {
    "GEOMETRIC_ENSEMBLE_ALPHA",
    "GEOMETRIC_ENSEMBLE_BETA",
    "ENSEMBLE_ON_VALID_MASK",
    "DECODER_CLASSES",
}
# Configuration of an adapter -> configuration of the model that it is trained on.
BASES = {"mask_adapter_tiny": "fcclip_tiny"}
POLL_SECONDS, REPORT_SECONDS = 0.2, 20.0
CHECKOUT = Path(__file__).resolve().parents[2]
COLUMNS = {  # title -> task, metric
    "PQ": ("panoptic", "PQ"), "PQ seen": ("panoptic", "S_PQ"), "PQ unseen": ("panoptic", "U_PQ"),
    "mIoU seen": ("sem_seg", "S_mIoU"), "mIoU unseen": ("sem_seg", "U_mIoU"),
    "recall@0.5 seen": ("mask_recall", "S_recall_50"), "recall@0.5 unseen": ("mask_recall", "U_recall_50"),
    "AP": ("segm", "AP"), "AP unseen": ("segm", "U_AP"), "box AP": ("bbox", "AP"),
}  # fmt: skip

Process = subprocess.Popen[bytes]
Rows = dict[str, dict[str, dict[str, Any]]]  # configuration -> column -> mean, std, values


@dataclass(frozen=True)
class Run:
    """A training followed by an evaluation, or an evaluation alone, of one configuration with one seed.

    arguments: arguments of the command `cmpf`.
    weights_from: the run whose weights are evaluated; None = this run is a training.
    base: the run whose model the adapter is trained on; None = no adapter.
    """

    name: str
    seed: int
    cfg: Config
    arguments: tuple[str, ...]
    weights_from: Run | None
    base: Run | None = None

    @property
    def title(self) -> str:
        """Name and seed, for messages."""
        return f"{self.name}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Output folder."""
        return Path(self.cfg.OUTPUT_DIR)

    @property
    def weights(self) -> str:
        """Path of the trained weights."""
        return str((self.weights_from or self).folder / "model_final.safetensors")

    def ready(self) -> bool:
        """Whether the runs that it depends on are finished."""
        return all(run is None or run.finished() for run in (self.weights_from, self.base))

    def finished(self) -> bool:
        """Whether its results exist.

        Raises:
            ConfigError: the folder holds a run with another configuration.
        """
        config = self.folder / "config.yaml"
        if config.exists() and config.read_text(encoding="utf-8") != self.cfg.dump():
            raise ConfigError(
                f"{self.folder} holds a run with another configuration; choose another --output, or remove it"
            )
        return (self.folder / "results.json").exists()

    def progress(self) -> str:
        """State of the run, from the last complete line of its metrics.json."""
        if self.weights_from is not None:
            return "evaluating"
        path = self.folder / "metrics.json"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        if not lines:
            return "starting"
        iteration, max_iter = json.loads(lines[-1])["iteration"], self.cfg.SOLVER.MAX_ITER
        return "evaluating" if iteration >= max_iter else f"iteration {iteration}/{max_iter}"


def plan(
    configs: Sequence[str], *, seeds: int, iterations: int | None, output: Path, opts: Sequence[str]
) -> list[Run]:
    """All runs of a study, sorted so that each follows the runs it depends on.

    Configurations that differ only in test-time keys share one training.

    Args:
        configs: files or names for get_cfg; their stems name the rows of the table.
        seeds: number of seeds; each configuration runs with 0 .. seeds - 1.
        iterations: overrides SOLVER.MAX_ITER; None = as configured.
        output: a run writes to output/NAME/seedS.
        opts: keys and values in turn, for all runs.
    Raises:
        ConfigError: a configuration is wrong, two have the same name, or an adapter's base is missing.
    """
    names = [Path(config).stem for config in configs]
    if len(set(names)) < len(names):
        raise ConfigError(f"each configuration needs its own name, got {', '.join(names)}")
    length = [] if iterations is None else ["SOLVER.MAX_ITER", str(iterations)]
    runs: list[Run] = []
    for seed in range(seeds):
        trained: dict[str, Run] = {}
        for config, name in zip(configs, names, strict=True):
            overrides = [
                *("SEED", str(seed), "OUTPUT_DIR", str(output / name / f"seed{seed}")),
                *("NUM_THREADS", "1", "DATALOADER.NUM_WORKERS", "0"),
                *("MODEL.MASK_FORMER.TEST.MASK_RECALL", "True", "TEST.EVAL_PERIOD", "0"),
                *length,
                *opts,
            ]
            base = next((r for r in runs if (r.name, r.seed) == (BASES.get(name), seed)), None)
            if base is not None:
                overrides += ["MODEL.CMPF.MASK_ADAPTER.BASE_WEIGHTS", base.weights]
            elif name in BASES:
                raise ConfigError(f"{name} is trained on the model of {BASES[name]}: name that before it")
            key = training_key(get_cfg(config, overrides))
            weights_from = trained.get(key)
            if weights_from is not None:
                overrides += ["MODEL.WEIGHTS", weights_from.weights]
            command = ("train", "--resume") if weights_from is None else ("eval",)
            arguments = (*command, "--config-file", config, *overrides)
            run = Run(name, seed, get_cfg(config, overrides), arguments, weights_from, base)
            trained.setdefault(key, run)
            runs.append(run)
    return sorted(runs, key=lambda run: run.weights_from is not None)


def training_key(cfg: Config) -> str:
    """A string that is equal for configurations with the same training."""
    model = {"MASK_FORMER": {"TEST"}, "CMPF": TEST_TIME_KEYS}
    values = cfg.model_dump(exclude={"OUTPUT_DIR": True, "TEST": True, "DATASETS": {"TEST"}, "MODEL": model})
    if (
        cfg.MODEL.CMPF.PROPOSAL_QUERIES.ENABLED
    ):  # these queries are initialized from SAM's masks, in training too
        values["MASKS"] = cfg.TEST.ENSEMBLE.model_dump(include={"SAM_NAME", "SAM_CHECKPOINT", *PROPOSAL_KEYS})
    return str(values)


def start(run: Run) -> Process:
    """Starts a run on one thread, with its output in FOLDER/console.txt."""
    run.folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # CMPF may run from a checkout without being installed.
    paths = [str(CHECKOUT), os.environ.get("PYTHONPATH")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    with _console(run).open("wb") as console:
        return subprocess.Popen(
            [sys.executable, "-m", "cmpf", *run.arguments],
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # Ctrl-C reaches only this process, which then terminates the others
        )


class Pool:
    """Runs a study with several processes.

    Args:
        jobs: maximum number of processes.
        start: starts a run.
    """

    def __init__(self, *, jobs: int, start: Callable[[Run], Process] = start) -> None:
        self._jobs = jobs
        self._start = start
        self._running: dict[Future[int], tuple[Run, Process]] = {}
        self._reported = time.monotonic()

    def run_all(self, runs: Sequence[Run]) -> None:
        """Runs all runs that are not finished, and prints the progress.

        Raises:
            CMPFError: a run failed (runs in progress were finished, no others started), or a signal was received (all
                processes have saved their state and stopped).
        """
        pending = [run for run in runs if not run.finished()]
        print(f"{len(runs) - len(pending)} of {len(runs)} runs are already finished", flush=True)
        issues: list[str] = []
        with StopRequest() as stop, ThreadPoolExecutor(self._jobs) as pool:
            while self._running or (pending and not issues):
                if stop.requested:
                    for _, process in self._running.values():
                        process.terminate()
                    break  # the pool waits for them
                if not issues:
                    self._start_ready(pending, pool)
                done, _ = wait(self._running, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                issues += [issue for future in done if (issue := self._finish(future))]
                self._report(len(pending))
        if stop.requested:
            raise CMPFError(f"stopped by {stop.signal_name}; run the same command again to resume")
        if issues:
            raise CMPFError("; ".join(issues))

    def _start_ready(self, pending: list[Run], pool: ThreadPoolExecutor) -> None:
        """Starts runs whose dependencies are finished, up to the maximum number of processes."""
        for run in list(pending):
            if run.ready() and len(self._running) < self._jobs:
                pending.remove(run)
                print(f"started: {run.title}", flush=True)
                process = self._start(run)
                self._running[pool.submit(process.wait)] = run, process

    def _finish(self, future: Future[int]) -> str:
        """Removes a run that has ended; returns an error message, or "" if it succeeded."""
        run, _ = self._running.pop(future)
        if future.result() == 0 and run.finished():
            print(f"finished: {run.title}", flush=True)
            return ""
        lines = _console(run).read_text(encoding="utf-8", errors="replace").strip().splitlines()
        issue = f"{run.title} failed: {lines[-1] if lines else 'no output'} (see {_console(run)})"
        print(issue, flush=True)
        return issue

    def _report(self, num_pending: int) -> None:
        if self._running and time.monotonic() - self._reported >= REPORT_SECONDS:
            self._reported = time.monotonic()
            states = [f"{run.title}: {run.progress()}" for run, _ in self._running.values()]
            print(f"{'; '.join(states)}; {num_pending} waiting", flush=True)


def _console(run: Run) -> Path:
    return run.folder / "console.txt"


def summarize(runs: Sequence[Run]) -> dict[str, Rows]:
    """Reads the results of finished runs.

    Returns:
        dataset -> configuration -> column -> {"mean", "std", "values"} in percent. `values` is sorted by seed; `std` is
        the sample standard deviation, None for fewer than two values; metrics that were not measured are None.
    """
    values: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        results = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
        results.pop(PROTOCOL, None)  # the only key that is not a dataset
        for dataset, tasks in results.items():
            columns = values.setdefault(dataset, {}).setdefault(run.name, {title: [] for title in COLUMNS})
            for title, (task, metric) in COLUMNS.items():
                columns[title].append(tasks.get(task, {}).get(metric))
    return {
        dataset: {
            name: {title: _statistics(column) for title, column in columns.items()}
            for name, columns in rows.items()
        }
        for dataset, rows in values.items()
    }


def _statistics(values: Sequence[float | None]) -> dict[str, Any]:
    measured = [value for value in values if value is not None]
    return {
        "mean": fmean(measured) if measured else None,
        "std": stdev(measured) if len(measured) > 1 else None,
        "values": list(values),
    }


def markdown(rows: Mapping[str, Mapping[str, Mapping[str, Any]]], *, names: Sequence[str]) -> str:
    """A Markdown table with a row per name and "mean ± standard deviation" or "-" in each column."""
    lines = ["| | " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * len(COLUMNS)]
    for name in names:
        cells = [_cell(rows[name][title]) for title in COLUMNS]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(statistics: Mapping[str, Any]) -> str:
    if statistics["mean"] is None:
        return "-"
    spread = "" if statistics["std"] is None else f" ± {statistics['std']:.1f}"
    return f"{statistics['mean']:.1f}{spread}"
