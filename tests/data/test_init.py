# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import cmpf.data


def test_every_name_that_type_checkers_see_can_be_imported_and_no_other() -> None:
    tree = ast.parse(Path(cmpf.data.__file__).read_text(encoding="utf-8"))
    (block,) = (node for node in tree.body if isinstance(node, ast.If))
    imports = [node for node in block.body if isinstance(node, ast.ImportFrom)]
    promised = {alias.name: node.module for node in imports for alias in node.names}
    assert promised
    assert promised == cmpf.data._MODULE_OF
    for name, module in promised.items():
        assert getattr(cmpf.data, name) is getattr(sys.modules[str(module)], name)
        assert name in dir(cmpf.data)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'cmpf\.data' has no attribute 'get_datsaet'"):
        cmpf.data.get_datsaet  # noqa: B018


def test_the_generator_does_not_wait_for_torch() -> None:
    code = "import sys, cmpf.shapeworld.writer; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
