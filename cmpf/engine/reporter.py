# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Passes on to the writers what happens in a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmpf.engine.records import Record, Window
from cmpf.engine.writers import Images, Writer


class Reporter:
    """All writers as one, and the means between two summaries.

    Args:
        writers: hear about losses, results and images.
        log_period: iterations of which a summary is the mean.
    """

    def __init__(self, writers: Sequence[Writer], *, log_period: int) -> None:
        self._writers = writers
        self._log_period = log_period
        self._window = Window()

    def start(self, iteration: int, max_iter: int) -> None:
        """Training begins or goes on after `iteration` iterations."""
        for writer in self._writers:
            writer.start(iteration, max_iter)

    def iteration(self, record: Record) -> None:
        """An iteration is over; at the end of a log period, and of the training, writers hear the mean too."""
        self._window.add(record)
        for writer in self._writers:
            writer.iteration(record)
        if record.iteration % self._log_period == 0 or record.iteration == record.max_iter:
            summary = self._window.summary(record)
            for writer in self._writers:
                writer.summary(summary)

    def results(self, iteration: int, metrics: Mapping[str, float]) -> None:
        """An evaluation is over."""
        for writer in self._writers:
            writer.results(iteration, metrics)

    def images(self, iteration: int, images: Images) -> None:
        """Images of this iteration's batch were drawn."""
        for writer in self._writers:
            writer.images(iteration, images)

    def close(self) -> None:
        """Training ends, well or not."""
        for writer in self._writers:
            writer.close()

    def state_dict(self) -> dict[str, Any]:
        """What has been collected since the last summary."""
        return self._window.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes up where `state_dict` was called."""
        self._window.load_state_dict(state)
