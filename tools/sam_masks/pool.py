# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Makes masks in one process or in several, each with its own SAM and its own share of the images."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from cmpf.config import get_cfg
from cmpf.errors import CMPFError
from cmpf.factory.encoders import build_device
from tools.sam_masks.images import SourceImage
from tools.sam_masks.maker import MaskMaker, Outcome

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """What a process needs to make masks.

    config, overrides: of cmpf.config.get_cfg. output: folder of the cache.
    device: such as "cuda:1"; None = MODEL.DEVICE.
    threads: of the CPU; 0 = torch's own choice.
    """

    config: str
    overrides: tuple[str, ...]
    output: str
    device: str | None
    threads: int

    def maker(self) -> MaskMaker:
        """SAM, ready to work."""
        if self.threads:
            torch.set_num_threads(self.threads)
        cfg = get_cfg(self.config, self.overrides)
        device = torch.device(self.device) if self.device else build_device(cfg)
        return MaskMaker(cfg, output=self.output, device=device)


def outcomes(jobs: Sequence[Job], images: Sequence[SourceImage]) -> Iterator[Outcome]:
    """Works images off and tells of each as it is done; one job runs in this process.

    Raises:
        CMPFError: the cache has masks made with other settings, or a process failed.
    """
    if len(jobs) == 1:
        yield from map(jobs[0].maker(), images)
        return
    context = multiprocessing.get_context("spawn")
    results: Any = context.Queue()
    processes = [
        context.Process(
            target=_work, args=(job, images[index :: len(jobs)], results, os.getpid()), daemon=True
        )
        for index, job in enumerate(jobs)
    ]
    try:
        for process in processes:
            process.start()
        for _ in images:
            yield _next(results, processes)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _next(results: Any, processes: Sequence[Any]) -> Outcome:
    while True:
        try:
            result = results.get(timeout=POLL_SECONDS)
        except queue.Empty:
            codes = [process.exitcode for process in processes if process.exitcode]
            if codes:
                raise CMPFError(
                    f"a process ended with exit code {codes[0]}, out of memory? Use fewer --jobs; the same "
                    "command goes on where it was"
                ) from None
            continue
        if isinstance(result, Exception):
            raise result
        outcome: Outcome = result
        return outcome


def _work(job: Job, images: Sequence[SourceImage], results: Any, parent: int) -> None:
    """The life of a process. Ctrl-C is its parent's affair; without a parent it ends after an image."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        for outcome in map(job.maker(), images):
            results.put(outcome)
            if os.getppid() != parent:
                return
    except CMPFError as error:
        results.put(error)
    except Exception as error:
        results.put(CMPFError(f"{type(error).__name__}: {error}"))
