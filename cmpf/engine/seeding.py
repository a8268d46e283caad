# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Seeds, saves and restores the global random number generators of Python, NumPy and torch."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch

from cmpf.common import distributed


def seed_everything(seed: int) -> int:
    """Seeds the global generators of Python, NumPy and torch (all devices).

    Args:
        seed: 0 .. 2**32 - 1; if negative, the operating system chooses one.
    Returns:
        The seed used.
    """
    if seed < 0:
        seed = int.from_bytes(os.urandom(4), "little")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed


def seed_rank(seed: int) -> None:
    """Seeds each rank above 0 differently; rank 0 keeps its random state, as in a single process.

    Args:
        seed: the run's seed, 0 or more.
    """
    _seed_other_ranks((seed,))


def rng_state() -> dict[str, Any]:
    """State of all global generators as tensors and Python values, which weights_only=True can read."""
    version, words, gauss = random.getstate()
    numpy_state: Any = np.random.get_state(legacy=False)
    inner: dict[str, Any] = numpy_state["state"]
    return {
        "python": {"version": version, "words": list(words), "gauss": gauss},
        "numpy": {
            "bit_generator": str(numpy_state["bit_generator"]),
            "key": torch.from_numpy(inner["key"].astype(np.int64)),
            "pos": int(inner["pos"]),
            "has_gauss": int(numpy_state["has_gauss"]),
            "gauss": float(numpy_state["gauss"]),
        },
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restores `rng_state`; states of GPUs that this machine lacks are ignored."""
    python, numpy_state = state["python"], state["numpy"]
    random.setstate((python["version"], tuple(python["words"]), python["gauss"]))
    np.random.set_state(
        (
            numpy_state["bit_generator"],
            numpy_state["key"].numpy().astype(np.uint32),
            numpy_state["pos"],
            numpy_state["has_gauss"],
            numpy_state["gauss"],
        )
    )
    torch.set_rng_state(state["torch"])
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device, device_state in enumerate(state["cuda"][:devices]):
        torch.cuda.set_rng_state(device_state, device)


def set_rank_rng_state(states: dict[str, Any] | list[dict[str, Any]], *, iteration: int) -> None:
    """Restores the random state of this process's rank.

    Args:
        states: `rng_state` of each rank, or that of a single-process run. A rank without one (the run now has more
            processes) is seeded from the initial seed, the iteration and its rank.
        iteration: iteration at which the run resumes.
    """
    by_rank = states if isinstance(states, list) else [states]
    if distributed.rank() < len(by_rank):
        set_rng_state(by_rank[distributed.rank()])
    else:
        set_rng_state(by_rank[0])
        _seed_other_ranks((torch.initial_seed(), iteration))


def _seed_other_ranks(entropy: tuple[int, ...]) -> None:
    rank = distributed.rank()
    if rank:
        seed_everything(int(np.random.SeedSequence([*entropy, rank]).generate_state(1)[0]))


@contextmanager
def preserved_rng() -> Iterator[None]:
    """Restores the global generators after the block."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


class TrainLoader(Protocol):
    """An endless iterable of batches whose position can be saved: after `load_state_dict`, `iter` continues there.

    It must not use the global random generators, whose numbers would differ in a resumed run.
    """

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
