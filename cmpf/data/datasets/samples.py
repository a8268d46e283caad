# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Samples of a large dataset in little memory."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Sequence
from typing import overload

import numpy as np

from cmpf.types import Sample


class PackedSamples(Sequence[Sample]):
    """Samples in one buffer of bytes; each is unpacked when it is asked for, as a copy of its own.

    Millions of small Python objects would take several times as much memory, and once more in each worker process:
    counting references writes into their pages, so that processes cannot share them. A buffer stays shared.
    """

    def __init__(self, samples: Iterable[Sample]) -> None:
        packed, ends = bytearray(), [0]
        for sample in samples:
            packed += pickle.dumps(sample, protocol=pickle.HIGHEST_PROTOCOL)
            ends.append(len(packed))
        self._packed = np.frombuffer(packed, dtype=np.uint8)
        self._ends = np.array(ends, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, place: int) -> Sample: ...
    @overload
    def __getitem__(self, place: slice) -> list[Sample]: ...
    def __getitem__(self, place: int | slice) -> Sample | list[Sample]:
        if isinstance(place, slice):
            return [self[index] for index in range(*place.indices(len(self)))]
        index = range(len(self))[place]  # counts negative places from the end, and raises IndexError
        sample: Sample = pickle.loads(self._packed[self._ends[index] : self._ends[index + 1]].data)
        return sample
