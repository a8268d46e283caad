# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The package keeps its layers, its sizes and its manners."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cmpf"
FILE_LINES, FUNCTION_LINES = 300, 80
COPY_STATEMENTS = 6  # shorter function bodies may be alike by nature

# A module may import what stands above its own line; names on one line are siblings and do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors", "types"),
    ("common",),
    ("formats", "config"),
    ("shapeworld",),
    ("data", "modeling", "losses", "visualization"),
    ("weights",),
    ("encoders", "evaluation"),
    ("inference",),
    ("model",),
    ("predictor",),
    ("engine",),
    ("factory",),
    ("detectron2", "export", "web"),
    ("cli",),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
ALLOWED = {("types", "errors")}
FILES = sorted(PACKAGE.rglob("*.py"))


def unit(path: Path) -> str:
    """The package or top-level module of CMPF that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """The units of CMPF that a file imports, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cmpf":
            parts = node.module.split(".")
            yield from [parts[1]] if len(parts) > 1 else [alias.name for alias in node.names]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("cmpf."))


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_layers_below_its_own(path: Path) -> None:
    own = unit(path)
    if own == "__init__":
        return  # the front door: it imports inside functions only, see the test of side effects
    assert own in LEVEL, f"{own} has no layer: add it to LAYERS"
    for other in imports(ast.parse(path.read_text(encoding="utf-8"))):
        if other in (own, "__version__") or other not in LEVEL or (own, other) in ALLOWED:
            continue
        assert LEVEL[other] < LEVEL[own], f"{path.relative_to(ROOT)} imports cmpf.{other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= FILE_LINES
    for function in functions(ast.parse(text)):
        length = function.end_lineno - function.lineno + 1  # type: ignore[operator]
        assert length <= FUNCTION_LINES, f"{function.name} has {length} lines"


def test_no_function_body_is_copied() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path in FILES:
        for function in functions(ast.parse(path.read_text(encoding="utf-8"))):
            body = function.body[1:] if ast.get_docstring(function) else function.body
            if sum(isinstance(node, ast.stmt) for part in body for node in ast.walk(part)) >= COPY_STATEMENTS:
                text = "\n".join(ast.dump(part) for part in body)
                digest = hashlib.sha256(text.encode()).hexdigest()
                places[digest].append(f"{path.relative_to(ROOT)}:{function.name}")
    assert [names for names in places.values() if len(names) > 1] == []


def test_every_source_file_names_its_licence_and_purpose() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert text.startswith("# Copyright 2026 The CMPF authors."), path
        assert ast.get_docstring(ast.parse(text)), path


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_cmpf_and_the_help_text_do_not_import_torch() -> None:
    code = (
        "import sys, cmpf, cmpf.cli\n"
        "try: cmpf.cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print('torch' in sys.modules)"
    )
    assert run_python(code).splitlines()[-1] == "False"


def test_importing_every_module_writes_nothing_and_registers_no_open_clip_model() -> None:
    modules = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in FILES]
    modules = [m.removesuffix(".__init__") for m in modules if not m.endswith("__main__")]
    modules = [
        m for m in modules if not m.startswith("cmpf.detectron2")
    ]  # needs a package that is not on PyPI
    code = (
        "import open_clip, os, importlib\n"
        "before = set(open_clip.list_models()), sorted(os.listdir('.'))\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print(before == (set(open_clip.list_models()), sorted(os.listdir('.'))))"
    )
    assert run_python(code) == "True"
