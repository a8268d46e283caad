# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The package keeps its layers, its sizes and its manners."""

from __future__ import annotations

import ast
import hashlib
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "cmpf"
FILE_LINES, FUNCTION_LINES = 300, 80
COPY_STATEMENTS = 6  # shorter function bodies may be alike by nature
# Two functions are copies that drift apart if they call so many different things in common, which are such a share of
# all their calls.
COPY_CALLS, COPY_SHARE = 4, 0.85

# A module may import what stands above its own line; names on one line are siblings and do not import each other.
LAYERS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("types", "common", "registry"),
    ("formats", "config"),
    ("shapeworld",),
    ("data", "modeling", "losses", "visualization"),
    ("weights",),
    ("encoders", "evaluation"),
    ("inference",),
    ("clip_tuning",),
    ("model",),
    ("predictor",),
    ("engine",),
    ("factory",),
    ("labelling",),
    ("detectron2", "export", "integrations", "web"),
    ("cli",),
    ("__main__",),
)
# The same inside data: from words and files of ground truth to batches.
DATA_LAYERS: tuple[tuple[str, ...], ...] = (
    ("vocabulary_file",),
    ("vocabulary",),
    ("datasets", "transforms"),
    ("words", "preparation", "sampling"),
    ("mapper",),
    ("loader",),
)
FILES = sorted(PACKAGE.rglob("*.py"))
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
}


def level_of(layers: tuple[tuple[str, ...], ...]) -> dict[str, int]:
    return {name: level for level, names in enumerate(layers) for name in names}


def imports(path: Path) -> Iterator[str]:
    """The modules of CMPF that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cmpf":
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in modules)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("cmpf."))


IMPORTS = {module: sorted(set(imports(path)) - {module}) for module, path in MODULES.items()}


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef))


def misplaced(package: str, layers: tuple[tuple[str, ...], ...]) -> list[str]:
    """Imports inside a package that go up or sideways, and units without a layer."""
    level, issues = level_of(layers), []
    depth = package.count(".") + 1
    for module, others in IMPORTS.items():
        own = module.split(".")
        if not module.startswith(package + "."):
            continue  # the package's own __init__ is its front door, see the test of side effects
        if own[depth] not in level:
            issues.append(f"{own[depth]} has no layer: add it to the table")
            continue
        for other in others:
            parts = other.split(".")
            if not other.startswith(package + ".") or parts[depth] == own[depth]:
                continue
            if level.get(parts[depth], len(layers)) >= level[own[depth]]:
                issues.append(f"{module} imports {other}")
    return issues


@pytest.mark.parametrize(("package", "layers"), [("cmpf", LAYERS), ("cmpf.data", DATA_LAYERS)])
def test_a_module_imports_only_layers_below_its_own(
    package: str, layers: tuple[tuple[str, ...], ...]
) -> None:
    assert misplaced(package, layers) == []


@pytest.mark.parametrize(("package", "layers"), [("cmpf", LAYERS), ("cmpf.data", DATA_LAYERS)])
def test_every_layer_has_its_package(package: str, layers: tuple[tuple[str, ...], ...]) -> None:
    assert [name for name in level_of(layers) if f"{package}.{name}" not in MODULES] == []


def test_no_modules_import_each_other_in_a_circle() -> None:
    """But for the front door `cmpf`, which imports inside functions only, see the test of side effects."""
    waiting = {module: set(others) & set(MODULES) for module, others in IMPORTS.items() if module != "cmpf"}
    while free := [module for module, others in waiting.items() if not others & set(waiting)]:
        for module in free:
            del waiting[module]
    assert waiting == {}


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


def calls(function: ast.AST) -> Counter[str]:
    """What a function calls, by the last part of the name, and how often."""
    called = [node.func for node in ast.walk(function) if isinstance(node, ast.Call)]
    return Counter(
        name
        for f in called
        if (name := getattr(f, "attr", getattr(f, "id", ""))) not in ("", "__init__", "super")
    )


def drifted(sources: dict[str, str]) -> list[str]:
    """Pairs of functions in different files that call the same things: copies, whatever became of their words."""
    found = [
        (place, function.name, calls(function))
        for place, text in sources.items()
        for function in functions(ast.parse(text))
        if function.name
        not in ("add_parser", "__init__")  # lists of options and attributes are no algorithms
    ]
    pairs = []
    for (place, name, own), (other_place, other_name, other) in combinations(found, 2):
        common = own & other
        share = common.total() / max(own.total(), other.total(), 1)
        if place != other_place and len(common) >= COPY_CALLS and share >= COPY_SHARE:
            pairs.append(f"{place}:{name} and {other_place}:{other_name} ({', '.join(common)})")
    return pairs


def test_no_function_is_a_drifted_copy_of_another() -> None:
    assert drifted({str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in FILES}) == []


def test_a_drifted_copy_is_found_whatever_its_names() -> None:
    one = "def read(path):\n    with open(path) as f:\n        return sorted(json.load(f).items(), key=len(f))\n"
    two = "def _load(file):\n    text = open(file)\n    pairs = json.load(text).items()\n    n = len(text)\n"
    assert len(drifted({"a": one, "b": two + "    return sorted(pairs, key=n)\n"})) == 1
    assert drifted({"a": one, "b": "def _load(file):\n    return json.load(open(file))\n"}) == []
    assert drifted({"a": one + one}) == []  # in one file they can be seen


def test_nothing_is_imported_from_tools() -> None:
    """Programs stand there, and Detectron2's wheel brings a package of the same name, which goes before the folder."""
    folders = ("cmpf", "tools", "tests", "demo", "datasets", "benchmarks")
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tools")
        or (isinstance(node, ast.Import) and any(a.name.split(".")[0] == "tools" for a in node.names))
    ]
    assert found == []


def test_every_source_file_names_its_license_and_purpose() -> None:
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
