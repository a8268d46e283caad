# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Logs to Weights & Biases (pip install "cmpf[wandb]")."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cmpf.common.files import write_text
from cmpf.engine.step import Record
from cmpf.engine.writers import Images, Writer, curves
from cmpf.errors import ConfigError

RUN_FILE = "wandb_run.txt"


class WandbWriter(Writer):
    """Logs curves, results and images to a run; a resumed training continues the same run.

    Args:
        folder: the training's output folder; its name is the run's name, and it stores the run's id.
        project: the project at Weights & Biases.
        config: the configuration as nested dicts, shown with the run.
    Raises:
        ConfigError: wandb is not installed.
    """

    def __init__(self, folder: Path, *, project: str, config: Mapping[str, Any]) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ConfigError(
                f"LOG.WANDB_PROJECT is {project!r}, but wandb is not installed: pip install wandb, or set "
                'LOG.WANDB_PROJECT ""'
            ) from error
        self._wandb: Any = wandb
        self._folder = folder
        self._project = project
        self._config = dict(config)
        self._run: Any = None

    def start(self, iteration: int, max_iter: int) -> None:
        file = self._folder / RUN_FILE
        run_id = file.read_text(encoding="utf-8").strip() if iteration and file.exists() else None
        self._run = self._wandb.init(
            project=self._project,
            name=self._folder.resolve().name,
            dir=str(self._folder),
            config=self._config,
            id=run_id,
            resume="allow",
        )
        write_text(file, str(self._run.id))

    def summary(self, record: Record) -> None:
        self._run.log(curves(record), step=record.iteration)

    def results(self, iteration: int, metrics: Mapping[str, float]) -> None:
        self._run.log(dict(metrics), step=iteration)

    def images(self, iteration: int, images: Images) -> None:
        logged = {title: self._wandb.Image(image) for title, image in images.items()}
        self._run.log(logged, step=iteration)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()
