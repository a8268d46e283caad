# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The documents: every command is run by a test or says why not, and all of them can at least be parsed."""

from __future__ import annotations

import argparse
import ast
import importlib
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.documents import (
    DOCUMENTS,
    PYTHON,
    ROOT,
    SELF,
    SHELL,
    Block,
    all_blocks,
    blocks,
    command_lines,
    marker_issue,
    own_program,
)
from PIL import Image

import cmpf
from cmpf.cli import SHELLS, main, make_parser
from cmpf.config import find_config, get_cfg
from cmpf.factory import load_predictor
from cmpf.predictor import Predictor

LOCK = "docker/requirements.lock"

BLOCKS = all_blocks()
PLACEHOLDER = re.compile(
    r"[A-Z][A-Z_]*(\.\w+)?|mine\.yaml|my_\w+\.yaml"
)  # FILE, FILE.pth, the reader's own file


class _ParsedError(BaseException):
    """Ends a program after its command line was parsed; no program catches it."""


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_every_block_of_commands_is_run_by_a_test_or_says_what_it_needs(block: Block) -> None:
    assert marker_issue(block) == ""


@pytest.mark.parametrize(
    ("text", "issue"),
    [
        ("```bash\nls\n```\n", "no marker"),
        ("<!-- needs: gpu -->\n```bash\nls\n```\n", ""),
        ("<!-- needs: gpu data -->\n\n```python\nx = 1\n```\n", ""),
        ("<!-- needs: luck -->\n```bash\nls\n```\n", "needs luck"),
        ("<!-- run: tests/test_nothing.py -->\n```bash\nls\n```\n", "no such test: tests/test_nothing.py"),
        ("<!-- run: tests/formats/test_masks.py -->\n```bash\ncmpf serve\n```\n", "serve: not mentioned in"),
        ("<!-- needs: gpu -->\ntext\n```bash\nls\n```\n", "no marker"),
        ("```\ncmpf serve\n```\n", "commands without a language"),
        ("```yaml\nname: x\n```\n", ""),
    ],
)
def test_a_block_without_a_true_marker_is_an_issue(text: str, issue: str) -> None:
    (block,) = blocks("x.md", text)
    assert marker_issue(block).startswith(issue)
    assert bool(marker_issue(block)) == bool(issue)


def test_commands_are_taken_apart_as_a_shell_does() -> None:
    text = "```bash\nA=1 cmpf eval \\\n  --model x  # why\ncd y && python tools/z.py a > out.txt\npip list\n"
    text += "for x in 1 2; do\n  cmpf predict $x.jpg ${x}y\ndone\n```\n"
    found = command_lines(blocks("x.md", text)[0])
    assert found == [
        ["cmpf", "eval", "--model", "x"],
        ["cd", "y"],
        ["python", "tools/z.py", "a"],
        ["pip", "list"],
        ["cmpf", "predict", "1.jpg", "1y"],
        ["cmpf", "predict", "2.jpg", "2y"],
    ]
    assert [own_program(command) for command in found[:4]] == [
        ("cmpf", ["eval", "--model", "x"]), None, ("tools/z.py", ["a"]), None,
    ]  # fmt: skip
    assert own_program(["python", "-m", "benchmarks", "--quick"]) == ("-m benchmarks", ["--quick"])
    assert own_program(["docker", "run", "--rm", "cmpf:cpu", "doctor"]) == ("cmpf", ["doctor"])
    assert own_program(["docker", "build", "-t", "cmpf:cpu", "."]) is None


def programs() -> list[Any]:
    """(block, program, arguments) of every command that runs CMPF."""
    found = []
    for block in BLOCKS:
        for command in command_lines(block) if block.language in SHELL else ():
            if own := own_program(command):
                found.append(pytest.param(*own, id=f"{block}: {' '.join(command)[:60]}"))
    return found


@pytest.mark.parametrize(("program", "arguments"), programs())
def test_every_command_of_cmpf_parses_and_its_files_exist(
    program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if program == "make":
        verbs = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
        assert [word for word in arguments if "=" not in word and word not in verbs] == []
        return
    if program == "cmpf" and arguments[0] == "--completion":
        assert arguments[1:] in [[shell] for shell in SHELLS]
        return
    if program == "cmpf":
        parsed = make_parser().parse_args(arguments)
    else:
        scripts = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob(program.replace("NAME", "*")))
        for script in scripts if "NAME" in program else [program]:
            parsed = parsed_by(script, arguments, monkeypatch)
    check_configuration(parsed)


def parsed_by(program: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """The arguments as a script or module parses them; it goes no further."""
    found: list[argparse.Namespace] = []

    def stopping_after(parse: Any) -> Any:
        def parsed(parser: argparse.ArgumentParser, *given: Any) -> None:
            found.append(parse(parser, *given))
            raise _ParsedError

        return parsed

    def run() -> None:
        if program.startswith("-m "):
            runpy.run_module(program.removeprefix("-m "), run_name="__main__")
        else:
            runpy.run_path(str(ROOT / program), run_name="__main__")

    with monkeypatch.context() as patch:
        for method in ("parse_args", "parse_intermixed_args"):
            own = getattr(argparse.ArgumentParser, method)
            patch.setattr(argparse.ArgumentParser, method, stopping_after(own))
        patch.setattr(sys, "argv", [program, *arguments])
        patch.setattr(sys, "path", [str((ROOT / program).parent), *sys.path])
        with pytest.raises(_ParsedError):
            run()
    return found[0]


def check_configuration(parsed: argparse.Namespace) -> None:
    """A configuration that is named exists, and takes the KEY VALUE pairs."""
    config = getattr(parsed, "config_file", None)
    if config and config.startswith("output/"):  # an earlier command of the document has written it
        get_cfg(None, getattr(parsed, "opts", []))
    elif config and not PLACEHOLDER.fullmatch(config):
        if config != "cmpf_tiny":  # also the name of a model
            find_config(config)
        get_cfg(config, getattr(parsed, "opts", []))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in PYTHON], ids=str)
def test_python_blocks_compile_and_the_names_of_cmpf_exist(block: Block) -> None:
    tree = ast.parse(block.text)
    compile(tree, str(block), "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "cmpf":
            for alias in node.names:
                assert exists(f"{node.module}.{alias.name}"), f"{block}: {node.module}.{alias.name}"
        elif isinstance(node, ast.Attribute) and ast.unparse(node).startswith("cmpf."):
            assert exists(ast.unparse(node).partition("(")[0]), f"{block}: {ast.unparse(node)}"


def exists(name: str) -> bool:
    """Whether a dotted name can be reached; of cmpf.detectron2, which needs its host, whether the source exports it."""
    module, _, attribute = name.rpartition(".")
    if name.startswith("cmpf.detectron2."):
        source = (ROOT / "cmpf/detectron2/__init__.py").read_text(encoding="utf-8")
        return f'"{attribute}",' in source
    try:
        importlib.import_module(name)
    except ImportError:
        return bool(module) and exists_in(module, attribute)
    return True


def exists_in(module: str, attribute: str) -> bool:
    try:
        return hasattr(importlib.import_module(module), attribute)
    except ImportError:
        return False


def test_names_that_do_not_exist_are_found() -> None:
    assert exists("cmpf.load")
    assert exists("cmpf.config.get_cfg")
    assert exists("cmpf.detectron2.Trainer")
    assert not exists("cmpf.loader")
    assert not exists("cmpf.nowhere.get_cfg")
    assert not exists("cmpf.detectron2.Nothing")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_paths_and_links_of_a_document_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    prose = re.sub(r"^```.*?^```", "", text, flags=re.M | re.S)
    code = " ".join(re.findall(r"`([^`\n]+)`", prose))
    named = set(
        re.findall(r"(?<![\w$./*-])(?:cmpf|configs|tools|demo|tests|docs|benchmarks|docker)/[\w./-]+", code)
    )
    missing = [path for path in named if not (ROOT / path.rstrip(".")).exists()]
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", prose)
    folder = (ROOT / document).parent
    missing += [link for link in links if "://" not in link and not (folder / link).exists()]
    assert missing == []


# Options of other programs, and of scripts of this project, that the documents speak of.
OTHERS = {"--no-build-isolation", "--user", "--shm-size", "--tune", "--eval-only", "--parallel"}


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Name -> parser of each command below this one."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: command for action in actions for name, command in action.choices.items()}


def options_of(parser: argparse.ArgumentParser) -> set[str]:
    """The options of a command and of those below it."""
    below = [options_of(command) for command in commands_of(parser).values()]
    return {option for action in parser._actions for option in action.option_strings}.union(*below)


@pytest.mark.parametrize("document", [name for name in DOCUMENTS if name != "docs/convert_config.md"])
def test_commands_and_options_in_the_text_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    quoted = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    parsers = commands_of(make_parser())
    known = options_of(make_parser()) | OTHERS
    for words in (text.split() for text in quoted):
        if words[0] == "cmpf" and len(words) > 1 and words[1][0] not in "-.":
            assert words[1].isupper() or words[1].rstrip(",") in parsers, " ".join(words)
        if words[0] in ("cmpf", "make", "docker", "pip") or words[0].startswith("--"):
            strangers = [word for word in words if word.startswith("--") and word.split("=")[0] not in known]
            assert strangers == [], " ".join(words)


def test_the_figure_of_the_architecture_names_modules_that_exist() -> None:
    figure = (ROOT / "docs/architecture.svg").read_text(encoding="utf-8")
    named = [name for text in re.findall(r'class="file"[^>]*>([^<]+)<', figure) for name in text.split(", ")]
    assert len(named) >= 14
    places = [ROOT / "cmpf" / name.removeprefix("cmpf/") for name in named]
    assert [str(place) for place in places if not place.exists()] == []


def test_extras_that_are_to_be_installed_exist() -> None:
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    named = {
        extra
        for document in DOCUMENTS
        for extras in re.findall(
            r"pip install \"?(?:\.|cmpf)\[([a-z\d,]+)\]", (ROOT / document).read_text("utf-8")
        )
        for extra in extras.split(",")
    }
    assert named
    assert sorted(extra for extra in named if f'"{extra}":' not in setup) == []


def test_every_extra_is_explained() -> None:
    setup = (
        (ROOT / "setup.py")
        .read_text(encoding="utf-8")
        .partition("extras_require={")[2]
        .partition("\n    },")[0]
    )
    extras = re.findall(r'^ {8}"(\w+)":', setup, flags=re.M)
    table = (ROOT / "INSTALL.md").read_text(encoding="utf-8").partition("| extra |")[2].partition("\n\n")[0]
    assert len(extras) >= 10
    assert [extra for extra in extras if f"`{extra}`" not in table] == []


def instructions(dockerfile: Path) -> list[tuple[str, str]]:
    """(INSTRUCTION, its text) of a Dockerfile, in its order."""
    lines = re.sub(r"^#.*\n", "", dockerfile.read_text(encoding="utf-8"), flags=re.M).replace("\\\n", " ")
    return [(line.split(" ", 1)[0], line.split(" ", 1)[1]) for line in lines.splitlines() if line]


def pins(text: str) -> dict[str, str]:
    """Package -> version of a file of requirements."""
    found = re.findall(r"^([\w.-]+)(?:\[\w+\])?==([^\s;]+)", text, flags=re.M)
    return {name.lower().replace("_", "-"): version for name, version in found}


def test_what_docker_installs_are_the_tested_versions_by_their_hashes() -> None:
    text = (ROOT / LOCK).read_text(encoding="utf-8")
    locked, tested = pins(text), pins((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    assert len(tested) > 15
    assert tested.items() <= locked.items()
    for name, version in pins((ROOT / "requirements-test.txt").read_text(encoding="utf-8")).items():
        assert locked.get(name, version) == version
    blocks = re.split(r"\n(?=[a-z])", re.sub(r"^#.*\n", "", text, flags=re.M).strip())
    one = r"[\w.-]+==\S+(?: \\\n    --hash=sha256:[0-9a-f]{64})+"
    assert len(blocks) == len(locked)
    assert [block for block in blocks if not re.fullmatch(one, block)] == []  # and no address of an index
    # PyTorch's index for CPUs has files of its own: they and what only they need are left out there.
    dockerfile = (ROOT / "docker/Dockerfile.cpu").read_text(encoding="utf-8")
    (program,) = re.findall(r"awk '(.+)' requirements\.lock > rest\.lock", dockerfile)
    rest = subprocess.run(["awk", program, ROOT / LOCK], capture_output=True, text=True, check=True).stdout
    without = set(locked) - set(pins(rest))
    assert {"torch", "torchvision", "triton"} < without
    assert all(name.startswith(("nvidia-", "cuda-")) for name in without - {"torch", "torchvision", "triton"})


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_docker_files_install_what_exists_and_run_cmpf_without_rights(name: str) -> None:
    """They are not built here: this takes a Docker daemon and gigabytes."""
    path = f"docker/Dockerfile.{name}"
    assert f"docker build -f {path} " in (ROOT / "INSTALL.md").read_text(encoding="utf-8")
    steps = instructions(ROOT / path)
    passed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copied = [source for step, text in steps if step == "COPY" for source in text.split()[:-1]]
    assert {"cmpf", "configs", "setup.py", LOCK} <= set(copied)
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in passed
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    commands = " ".join(text for step, text in steps if step == "RUN")
    (extras,) = re.findall(r'"\.\[([\w,]+)\]" && pip check', commands)
    assert [extra for extra in extras.split(",") if f'"{extra}":' not in setup] == []
    assert f" setup.py --extra {' --extra '.join(extras.split(','))} " in (ROOT / LOCK).read_text("utf-8")
    assert "pip install --no-deps --only-binary :all: --require-hashes -r " in commands
    order = [step for step, _ in steps]
    assert order.index("USER") < order.index("ENTRYPOINT")
    assert {text for step, text in steps if step == "USER"} == {"cmpf"}
    assert order.count("USER") == order.count("ENTRYPOINT") == (2 if name == "cuda" else 1)
    assert dict(steps)["ENTRYPOINT"] == '["cmpf"]'


@pytest.fixture(scope="module")
def tiny() -> Predictor:
    """As cmpf.load gives it, but for a coarser grid of SAM's own masks."""
    return load_predictor("cmpf_tiny", device="cpu", overrides=["TEST.ENSEMBLE.POINTS_PER_SIDE", 2])


@pytest.fixture
def _user_folder(tiny: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with the images that the documents speak of; the tiny model is loaded once for all."""
    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("demo").mkdir()
    with Image.open(ROOT / "demo/shapes.jpg") as image:
        small = image.convert("RGB").resize((160, 120))
    for name in ("photos/one.jpg", "demo/shapes.jpg"):
        small.save(name)

    def load(model: str, *, weights: str | None = None, **_: object) -> Predictor:
        assert (model, weights) == ("cmpf_tiny", None)
        return tiny

    monkeypatch.setattr(cmpf, "load", load)


@pytest.mark.usefixtures("_user_folder")
@pytest.mark.parametrize("block", [block for block in BLOCKS if SELF in block.tests], ids=str)
def test_blocks_that_need_nothing_run_as_they_are(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    if block.language in PYTHON:
        exec(compile(block.text, str(block), "exec"), {"__name__": "__document__"})
        return
    for command in command_lines(block):
        program, arguments = own_program(command) or pytest.fail(f"{command}: only cmpf is run here")
        assert program == "cmpf"
        assert main(arguments) == 0, capsys.readouterr().err
        shown = capsys.readouterr().out
        assert shown
        assert "demo/shapes.jpg: nothing" not in shown


def test_the_hard_images_of_shapeworld_have_one_number_everywhere() -> None:
    files = [*DOCUMENTS, "cmpf/data/datasets/builtin.py", "demo/quickstart.py", "Makefile"]
    texts = [(ROOT / file).read_text(encoding="utf-8") for file in files]
    found = [number for text in texts for number in re.findall(r"--hard-val[\s\",]+(\d+)", text)]
    assert len(found) >= 4
    assert set(found) == {"200"}


def test_detectron2_is_built_at_the_same_commits_everywhere() -> None:
    """Building takes the network and minutes; here: one command, and that it says what it needs."""
    files = ("Makefile", "INSTALL.md", "docker/Dockerfile.cuda")
    commits = [set(re.findall(r"(\w+)@([0-9a-f]{40})", (ROOT / file).read_text("utf-8"))) for file in files]
    assert {name for name, _ in commits[0]} == {"detectron2", "panopticapi"}
    assert commits[0] == commits[1] == commits[2]
    (told,) = re.findall(r"detectron2@[0-9a-f]{40}", (ROOT / "cmpf/cli/doctor.py").read_text("utf-8"))
    assert tuple(told.split("@")) in commits[0]
    shown = subprocess.run(
        ["make", "-n", "detectron2"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "needs the network, git and a C++ compiler" in shown
    (build,) = [line for line in shown.splitlines() if "detectron2@" in line]
    assert build.count("--no-build-isolation") == 1


def test_commands_of_the_makefile_keep_compiled_modules_wherever_they_run() -> None:
    """Containers often switch that off, and setup compiles nothing."""
    target = "show: ; @echo $${PYTHONDONTWRITEBYTECODE-unset}"
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = ["make", "--no-print-directory", f"--eval={target}", "show"]
    shown = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert shown.strip() == "unset"


def importable(module: str) -> bool:
    """Whether it is there; a folder of the name, as in these tests, is not it."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def test_what_ci_says_of_optional_parts_is_what_can_be_imported() -> None:
    code = [sys.executable, str(ROOT / ".ci" / "parts.py")]
    lines = subprocess.run(code, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["Detectron2", "gradio + Chromium", "PyAV", "Ray"]
    here = [
        importable("detectron2.engine"),
        importable("gradio") and shutil.which("chromium") is not None,
        importable("av"),
    ]
    assert [": ran" in line for line in lines[:3]] == here
    assert all(": absent" in line for line, found in zip(lines, here, strict=False) if not found)
