# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""In a single process nothing needs an agreement; two of them agree in test_launch.py."""

from __future__ import annotations

import pytest
import torch

from cmpf.common import distributed
from cmpf.errors import TrainingError


def test_a_single_process_is_the_first_of_one() -> None:
    assert (distributed.world_size(), distributed.rank()) == (1, 0)
    assert distributed.is_main()
    assert not distributed.is_parallel()


def test_a_single_process_agrees_with_itself() -> None:
    values = torch.tensor([1.0, 2.0])
    distributed.barrier()
    distributed.broadcast_tensors([values])
    assert distributed.all_reduce_mean(values) is values
    assert distributed.gather("a") == ["a"]
    assert distributed.from_main("a") == "a"
    assert distributed.on_main(lambda: None) is None
    assert [distributed.any_process(flag) for flag in (True, False)] == [True, False]
    with distributed.main_first():
        pass


def test_a_single_process_raises_its_own_error() -> None:
    error = TrainingError("bad mask")
    distributed.raise_together(None)
    with pytest.raises(TrainingError, match=r"^bad mask$") as caught:
        distributed.raise_together(error)
    assert caught.value is error
