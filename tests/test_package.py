# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What is handed out: one version everywhere, and a wheel that holds what an installed CMPF reads, and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from zipfile import ZipFile

import pytest
from helpers.documents import ROOT

import cmpf

BUILT_FROM = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> ZipFile:
    """Built from a copy, without network."""
    folder = tmp_path_factory.mktemp("source")
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, folder)
    for name in ("cmpf", "configs", "tests/helpers"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("cmpf-*.whl")
    return ZipFile(path)


def sources(folder: str) -> set[str]:
    """Files of a folder of the checkout, but for what Python makes of them."""
    files = (
        path for path in (ROOT / folder).rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )
    return {str(path.relative_to(ROOT)) for path in files}


def test_there_is_one_version() -> None:
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.+)$", citation, flags=re.M) == [cmpf.__version__]
    assert f"## [{cmpf.__version__}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "version=VERSION" in (ROOT / "setup.py").read_text(encoding="utf-8")


def test_a_wheel_holds_the_package_the_configurations_and_nothing_else(wheel: ZipFile) -> None:
    held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert held == sources("cmpf") | {f"cmpf/{name}" for name in sources("configs")}
    assert [name for name in held if name.startswith(("tests", "docs", "tools"))] == []
    assert {
        "cmpf/py.typed",
        "cmpf/assets/cmpf_tiny_decoder.safetensors",
        "cmpf/configs/model_zoo.yaml",
    } <= held
    (entry,) = (name for name in wheel.namelist() if name.endswith("entry_points.txt"))
    assert "cmpf = cmpf.cli:main" in wheel.read(entry).decode()


def test_messages_name_no_script_of_a_checkout() -> None:
    """An installed CMPF has no tools/ and no datasets/: what a message names is a command."""
    found = []
    for path in (ROOT / "cmpf").rglob("*.py"):
        text = re.sub(r'""".*?"""|^\s*#.*$', "", path.read_text(encoding="utf-8"), flags=re.S | re.M)
        found += [
            f"{path.name}: {line.strip()}"
            for line in text.splitlines()
            if re.search(r"python \w+/\w+\.py", line)
        ]
    assert found == []
