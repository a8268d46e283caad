# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A study of several configurations: its trainings and evaluations in processes, mean and deviation over seeds."""

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

# Keys outside TEST that act on inference alone.
_GEOMETRIC = {"GEOMETRIC_ENSEMBLE_ALPHA", "GEOMETRIC_ENSEMBLE_BETA"}
TEST_TIME_KEYS = {*_GEOMETRIC, "ENSEMBLE_ON_VALID_MASK", "DECODER_CLASSES"}
# What is trained on top of another configuration's model -> which.
BASES = {"mask_adapter_tiny": "fcclip_tiny"}


@dataclass(frozen=True)
class Run:
    """One training with evaluation, or an evaluation alone: a configuration with a seed.

    arguments: of the command `cmpf`. weights_from: None, or the run whose weights are evaluated.
    base: None, or the run on whose model an adapter is trained.
    """

    name: str
    seed: int
    cfg: Config
    arguments: tuple[str, ...]
    weights_from: Run | None
    base: Run | None = None

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.name}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return Path(self.cfg.OUTPUT_DIR)

    @property
    def weights(self) -> str:
        """The file of its trained weights."""
        return str((self.weights_from or self).folder / "model_final.safetensors")

    def ready(self) -> bool:
        """Whether the weights that it needs are there."""
        return all(run is None or run.finished() for run in (self.weights_from, self.base))

    def finished(self) -> bool:
        """Whether its results are there.

        Raises:
            ConfigError: the folder holds a run with another configuration.
        """
        written = self.folder / "config.yaml"
        if written.exists() and written.read_text(encoding="utf-8") != self.cfg.dump():
            raise ConfigError(
                f"{self.folder} holds a run with another configuration; choose another --output, or remove it"
            )
        return (self.folder / "results.json").exists()

    def progress(self) -> str:
        """Where it is, by the last whole line of its metrics.json."""
        if self.weights_from is not None:
            return "evaluating"
        path = self.folder / "metrics.json"
        lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
        if not lines:
            return "starting"
        done, all_of_them = json.loads(lines[-1])["iteration"], self.cfg.SOLVER.MAX_ITER
        return "evaluating" if done >= all_of_them else f"iteration {done}/{all_of_them}"


def plan(
    configs: Sequence[str], *, seeds: int, iterations: int | None, output: Path, opts: Sequence[str]
) -> list[Run]:
    """All runs, each after the one whose weights it uses.

    Configurations that differ only at test time share the training of the first of them.

    Args:
        configs: what get_cfg finds; the names of the files, without ending, name the rows of the table.
        seeds: seeds 0 .. seeds - 1 for each.
        iterations: replaces SOLVER.MAX_ITER; None = each configuration's own.
        output: each run gets the folder NAME/seedS in it.
        opts: further KEY VALUE pairs for all.
    Raises:
        ConfigError: a configuration is wrong, or two have the same name.
    """
    names = [Path(config).stem for config in configs]
    if len(set(names)) < len(names):
        raise ConfigError(f"each configuration needs its own name, got {', '.join(names)}")
    length = [] if iterations is None else ["SOLVER.MAX_ITER", str(iterations)]
    runs: list[Run] = []
    for seed in range(seeds):
        trained: dict[str, Run] = {}
        for config, name in zip(configs, names, strict=True):
            pairs = [
                *("SEED", str(seed), "OUTPUT_DIR", str(output / name / f"seed{seed}")),
                *("NUM_THREADS", "1", "DATALOADER.NUM_WORKERS", "0"),
                *("MODEL.MASK_FORMER.TEST.MASK_RECALL", "True", "TEST.EVAL_PERIOD", "0"),
                *length,
                *opts,
            ]
            base = next((r for r in runs if (r.name, r.seed) == (BASES.get(name), seed)), None)
            if base is not None:
                pairs += ["MODEL.CMPF.MASK_ADAPTER.BASE_WEIGHTS", base.weights]
            elif name in BASES:
                raise ConfigError(f"{name} is trained on the model of {BASES[name]}: name that before it")
            training = training_part(get_cfg(config, pairs))
            twin = trained.get(training)
            if twin is not None:
                pairs += ["MODEL.WEIGHTS", twin.weights]
            command = ("train", "--resume") if twin is None else ("eval",)
            arguments = (*command, "--config-file", config, *pairs)
            run = Run(name, seed, get_cfg(config, pairs), arguments, twin, base)
            trained.setdefault(training, run)
            runs.append(run)
    return sorted(runs, key=lambda run: run.weights_from is not None)


def training_part(cfg: Config) -> str:
    """What a training depends on, as a text that is equal for equal trainings."""
    model = {"MASK_FORMER": {"TEST"}, "CMPF": TEST_TIME_KEYS}
    known = cfg.model_dump(exclude={"OUTPUT_DIR": True, "TEST": True, "DATASETS": {"TEST"}, "MODEL": model})
    if cfg.MODEL.CMPF.PROPOSAL_QUERIES.ENABLED:  # which start at SAM's masks
        known["MASKS"] = cfg.TEST.ENSEMBLE.model_dump(include={"SAM_NAME", "SAM_CHECKPOINT", *PROPOSAL_KEYS})
    return str(known)


PARENT = Path(__file__).resolve().parents[2]  # of the package
POLL_SECONDS, REPORT_SECONDS = 0.2, 20.0

Process = subprocess.Popen[bytes]


def start(run: Run) -> Process:
    """Begins a run in one thread, with its output in FOLDER/console.txt."""
    run.folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    # A checkout that is not installed.
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PARENT), os.environ.get("PYTHONPATH")]))
    with _console(run).open("wb") as console:
        return subprocess.Popen(
            [sys.executable, "-m", "cmpf", *run.arguments],
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
            if run.ready() and len(self._running) < self._jobs:
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


COLUMNS = {  # title -> task, metric
    "PQ": ("panoptic", "PQ"), "PQ seen": ("panoptic", "S_PQ"), "PQ unseen": ("panoptic", "U_PQ"),
    "mIoU seen": ("sem_seg", "S_mIoU"), "mIoU unseen": ("sem_seg", "U_mIoU"),
    "recall@0.5 seen": ("mask_recall", "S_recall_50"), "recall@0.5 unseen": ("mask_recall", "U_recall_50"),
    "AP": ("segm", "AP"), "AP unseen": ("segm", "U_AP"), "box AP": ("bbox", "AP"),
}  # fmt: skip

Rows = dict[str, dict[str, dict[str, Any]]]  # configuration -> column -> mean, std, values


def summarize(runs: Sequence[Run]) -> dict[str, Rows]:
    """Reads the results of finished runs.

    Returns:
        dataset -> configuration -> column -> {"mean", "std", "values"} in percent; values in the order of the
        seeds; std is that of a sample, None for fewer than two values; what was not measured is None.
    """
    values: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        results = json.loads((run.folder / "results.json").read_text(encoding="utf-8"))
        results.pop(PROTOCOL, None)  # no dataset
        for dataset, tasks in results.items():
            columns = values.setdefault(dataset, {}).setdefault(run.name, {title: [] for title in COLUMNS})
            for title, (task, metric) in COLUMNS.items():
                columns[title].append(tasks.get(task, {}).get(metric))
    return {
        dataset: {
            name: {title: _statistics(of_seeds) for title, of_seeds in columns.items()}
            for name, columns in rows.items()
        }
        for dataset, rows in values.items()
    }


def _statistics(values: Sequence[float | None]) -> dict[str, Any]:
    known = [value for value in values if value is not None]
    return {
        "mean": fmean(known) if known else None,
        "std": stdev(known) if len(known) > 1 else None,
        "values": list(values),
    }


def markdown(rows: Mapping[str, Mapping[str, Mapping[str, Any]]], *, names: Sequence[str]) -> str:
    """A row for each name: "mean ± standard deviation" in each column, "-" where nothing was measured."""
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
