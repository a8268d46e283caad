# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A command starts without torch's compiler, which is there when it is wanted."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType

import pytest

from cmpf.cli import outcome

PREDICT = """
import sys
from cmpf.cli import main
from cmpf.cli.outcome import COMPILER
code = main(["predict", sys.argv[1], "--vocabulary", "red circle", "--output", sys.argv[2]])
assert COMPILER not in sys.modules and {"torchvision", "timm", "open_clip"} <= set(sys.modules)
import torch
from timm.models.naflexvit import NaFlexRopeIterator
from torchvision.ops import roi_align
boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
assert float(roi_align(torch.ones(1, 1, 4, 4), [boxes], 1)) == 1  # asks about compilers on other devices only
double = torch.compile(lambda x: 2 * x, backend="eager")
assert float(double(torch.ones(()))) == 2
assert hasattr(sys.modules[COMPILER], "optimize")  # the real one
print(code)
"""


def test_a_prediction_needs_no_compiler_and_a_later_one_gets_it(tmp_path: object) -> None:
    command = [sys.executable, "-c", PREDICT, "demo/shapes.jpg", f"{tmp_path}/out"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "0"


def test_decorators_ask_the_compiler_when_the_function_is_first_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, object]] = []
    compiler = ModuleType(outcome.COMPILER)
    compiler.disable = lambda f, recursive=True, reason=None: asked.append((f.__name__, reason)) or f  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, outcome.COMPILER, compiler)

    def once(x: int) -> int:
        """Docstring."""
        return x + 1

    for decorated in (outcome._disable(once, True, reason="a"), outcome._disable(reason="b")(once)):
        before = len(asked)
        assert decorated.__doc__ == "Docstring."
        assert len(asked) == before
        assert [decorated(1), decorated(2)] == [2, 3]
        assert len(asked) == before + 1
    assert asked == [("once", "a"), ("once", "b")]


def test_a_library_that_wants_more_is_left_for_its_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, outcome.COMPILER, raising=False)
    real = outcome.importlib.import_module
    seen: list[str] = []

    def wants_more(name: str) -> ModuleType:
        seen.append(name)
        return sys.modules[outcome.COMPILER].config  # type: ignore[no-any-return]

    monkeypatch.setattr(outcome.importlib, "import_module", wants_more)
    outcome.import_libraries()
    monkeypatch.setattr(outcome.importlib, "import_module", real)
    assert seen == ["torchvision"]
    assert outcome.COMPILER not in sys.modules
