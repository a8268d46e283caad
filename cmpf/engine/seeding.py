# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The global random number generators: seeding, saving and restoring them; and batches that draw nothing from them."""

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
    """Seeds Python's, numpy's and torch's global generators (torch: every device).

    Args:
        seed: 0 .. 2**32 - 1; a negative number asks for one from the operating system.
    Returns:
        The seed used, for the log.
    """
    if seed < 0:
        seed = int.from_bytes(os.urandom(4), "little")
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    return seed


def seed_rank(seed: int) -> None:
    """Gives each process random numbers of its own; rank 0 keeps those it has, as in a single process.

    Args:
        seed: of the training; 0 or more.
    """
    _seed_other_ranks((seed,))


def rng_state() -> dict[str, Any]:
    """State of all global generators, in tensors and plain values: what weights_only=True can read."""
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
    """Puts all global generators where `rng_state` found them; GPUs that are gone are passed over."""
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
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for device, device_state in enumerate(state["cuda"][:here]):
        torch.cuda.set_rng_state(device_state, device)


def set_rank_rng_state(states: dict[str, Any] | list[dict[str, Any]], *, iteration: int) -> None:
    """Puts this process's generators where `rng_state` found those of its rank.

    Args:
        states: by rank; a single one is that of a training in one process. A rank that has none, because there are
            more processes now, gets numbers of its own.
        iteration: of the training; another one gives such a rank other numbers.
    """
    known = states if isinstance(states, list) else [states]
    if distributed.rank() < len(known):
        set_rng_state(known[distributed.rank()])
    else:
        set_rng_state(known[0])
        _seed_other_ranks((torch.initial_seed(), iteration))


def _seed_other_ranks(origin: tuple[int, ...]) -> None:
    rank = distributed.rank()
    if rank:
        seed_everything(int(np.random.SeedSequence([*origin, rank]).generate_state(1)[0]))


@contextmanager
def preserved_rng() -> Iterator[None]:
    """What happens inside leaves no trace in the global generators."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


class TrainLoader(Protocol):
    """Endless batches whose position can be saved: after `load_state_dict`, `iter` gives the next batch.

    It draws nothing from the global random generators, or a resumed run would draw other numbers.
    """

    def __iter__(self) -> Iterator[Any]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...
