# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Trains or evaluates one of CMPF's configurations with Detectron2's trainer: --engine detectron2."""

from __future__ import annotations

import os
from pathlib import Path

from detectron2.modeling import build_model
from detectron2.utils import comm
from detectron2.utils.logger import setup_logger

from cmpf.common import distributed
from cmpf.common.tensors import find_device
from cmpf.config import Config, with_overrides
from cmpf.detectron2.config import detectron2_config
from cmpf.detectron2.hooks import by_dataset
from cmpf.detectron2.trainer import Checkpointer, Trainer
from cmpf.engine.checkpoints import LAST_CHECKPOINT
from cmpf.engine.evaluations import Results
from cmpf.errors import TrainingError

NATIVE_SUFFIX = ".safetensors"


def obstacle(cfg: Config, *, eval_only: bool = False) -> str:
    """Why Detectron2's trainer cannot run a configuration; "" if it can.

    Args:
        cfg: CMPF's configuration.
        eval_only: whether the run only evaluates.
    """
    solver = cfg.SOLVER
    if comm.get_world_size() > 1 and find_device(cfg.MODEL.DEVICE).type == "cpu":
        return "Detectron2 trains in several processes on GPUs only"
    if eval_only:
        return ""
    if last_checkpoint(cfg).endswith(NATIVE_SUFFIX):
        return f"{cfg.OUTPUT_DIR} holds checkpoints of the native engine"
    if solver.ACCUMULATION_STEPS > 1:
        return f"SOLVER.ACCUMULATION_STEPS {solver.ACCUMULATION_STEPS}: Detectron2's loop takes a batch as a whole"
    return (
        "SOLVER.EMA.ENABLED: Detectron2's loop keeps no average of the weights" if solver.EMA.ENABLED else ""
    )


def last_checkpoint(cfg: Config) -> str:
    """Name of the newest checkpoint in OUTPUT_DIR, of either engine; "" if there is none."""
    try:
        return (Path(cfg.OUTPUT_DIR) / LAST_CHECKPOINT).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return ""


def run(cfg: Config, *, resume: bool, eval_only: bool) -> Results | None:
    """Trains and evaluates a model, or only evaluates MODEL.WEIGHTS.

    Args:
        cfg: CMPF's configuration.
        resume: resume from the newest checkpoint in OUTPUT_DIR, if there is one.
        eval_only: only evaluate.
    Returns:
        {dataset: {task: {metric: percent}}}; None if there is no test dataset.
    Raises:
        TrainingError: Detectron2's trainer cannot run the configuration, or OUTPUT_DIR holds checkpoints of another
            run and `resume` is False.
    """
    if reason := obstacle(cfg, eval_only=eval_only):
        raise TrainingError(f"{reason}; use --engine native")
    _group_by_machine()
    # Detectron2 would exit on unexpected results before anything is written.
    host = detectron2_config(with_overrides(cfg, {"TEST.EXPECTED_RESULTS": ()}))
    for name in ("fvcore", "detectron2"):
        setup_logger(host.OUTPUT_DIR, distributed_rank=comm.get_rank(), name=name)
    if eval_only:
        model = build_model(host)
        Checkpointer(model, host.OUTPUT_DIR, allow_unused=host.MODEL.ALLOW_UNUSED_WEIGHTS).load(
            host.MODEL.WEIGHTS, checkpointables=[]
        )
        return by_dataset(host, Trainer.test(host, model))
    if not resume and last_checkpoint(cfg):
        raise TrainingError(
            f"{host.OUTPUT_DIR} holds checkpoints of an earlier run. Go on with it by --resume, or choose another "
            "OUTPUT_DIR"
        )
    trainer = Trainer(host)
    trainer.resume_or_load(resume=resume)
    trainer.train()
    return by_dataset(host, getattr(trainer, "_last_eval_results", None))


def _group_by_machine() -> None:
    """Creates the process group of each machine, as Detectron2's own launcher does."""
    if comm.get_world_size() > 1 and comm._LOCAL_PROCESS_GROUP is None:
        local_ranks = distributed.gather(int(os.environ.get("LOCAL_RANK", "0")))
        comm.create_local_process_group(max(local_ranks) + 1)
