# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Which trainings and evaluations an ablation consists of."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmpf.config import Config, get_cfg
from cmpf.errors import ConfigError

# Keys outside TEST that act on inference alone.
TEST_TIME_KEYS = ("GEOMETRIC_ENSEMBLE_ALPHA", "GEOMETRIC_ENSEMBLE_BETA", "ENSEMBLE_ON_VALID_MASK")


@dataclass(frozen=True)
class Run:
    """One training with evaluation, or an evaluation alone: a configuration with a seed.

    arguments: command line of train_net.py. weights_from: None, or the run whose weights are evaluated.
    """

    name: str
    seed: int
    cfg: Config
    arguments: tuple[str, ...]
    weights_from: Run | None

    @property
    def title(self) -> str:
        """For messages."""
        return f"{self.name}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Where it writes."""
        return Path(self.cfg.OUTPUT_DIR)

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
            training = training_part(get_cfg(config, pairs))
            twin = trained.get(training)
            if twin is not None:
                pairs += ["MODEL.WEIGHTS", str(twin.folder / "model_final.safetensors")]
            mode = "--resume" if twin is None else "--eval-only"
            arguments = ("--config-file", config, mode, *pairs)
            run = Run(name, seed, get_cfg(config, pairs), arguments, twin)
            trained.setdefault(training, run)
            runs.append(run)
    return sorted(runs, key=lambda run: run.weights_from is not None)


def training_part(cfg: Config) -> str:
    """What a training depends on, as a text that is equal for equal trainings."""
    model = {"MASK_FORMER": {"TEST"}, "CMPF": set(TEST_TIME_KEYS)}
    return str(
        cfg.model_dump(exclude={"OUTPUT_DIR": True, "TEST": True, "DATASETS": {"TEST"}, "MODEL": model})
    )
