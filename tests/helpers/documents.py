# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Code blocks of the documents, and the command lines in them.

A comment stands before each block of bash or Python: `<!-- run: tests/a.py tests/b.py -->` names the tests that run its
commands (tests/test_documents.py: as they are), `<!-- needs: gpu data network -->` says why no test can.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Every page that a user reads; CHANGELOG.md tells of commands that are gone.
DOCUMENTS = (
    *(
        "README.md",
        "INSTALL.md",
        "GETTING_STARTED.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "datasets/README.md",
    ),
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")),
)
NEEDS = {"gpu", "data", "network"}
SELF = "tests/test_documents.py"
SHELL, PYTHON = ("bash", "sh", "shell", "console"), ("python", "py")
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.M | re.S)
_MARKER = re.compile(r"<!-- (run|needs): ([^>]+?) -->\n\n?\Z")
_LOOP = re.compile(r"^for (\w+) in ([^;\n]+); do\n(.*?)^done\n", flags=re.M | re.S)
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class Block:
    """A fenced block. marker: (kind, words), or None; line: of the fence, from 1."""

    document: str
    line: int
    language: str
    text: str
    marker: tuple[str, tuple[str, ...]] | None

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"

    @property
    def tests(self) -> tuple[str, ...]:
        """Files of the tests that run it."""
        return self.marker[1] if self.marker and self.marker[0] == "run" else ()


def blocks(document: str, text: str) -> list[Block]:
    """The fenced blocks of a document."""
    found = []
    for match in _FENCE.finditer(text):
        marker = _MARKER.search(text, 0, match.start())
        words = (marker[1], tuple(marker[2].split())) if marker else None
        line = text.count("\n", 0, match.start()) + 1
        found.append(Block(document, line, match[1], match[2], words))
    return found


def all_blocks() -> list[Block]:
    return [block for name in DOCUMENTS for block in blocks(name, (ROOT / name).read_text(encoding="utf-8"))]


def marker_issue(block: Block) -> str:
    """What is wrong with a block's marker; "" = nothing."""
    if block.language not in (*SHELL, *PYTHON):
        return (
            "commands without a language" if re.search(r"^(cmpf|python|pip|make) ", block.text, re.M) else ""
        )
    if block.marker is None:
        return "no marker: write <!-- run: tests/... --> or <!-- needs: gpu data network --> before it"
    kind, words = block.marker
    if kind == "needs":
        return (
            "" if set(words) <= NEEDS else f"needs {' '.join(words)}, allowed are {', '.join(sorted(NEEDS))}"
        )
    missing = [word for word in words if not (ROOT / word).is_file()]
    if missing:
        return f"no such test: {', '.join(missing)}"
    known = "".join((ROOT / word).read_text(encoding="utf-8") for word in words)
    # A script of tools/ is the command with underscores.
    spoken = (name for name in _subjects(block) if name not in known and name.replace("-", "_") not in known)
    strangers = [] if SELF in words else list(spoken)
    return f"{', '.join(strangers)}: not mentioned in {', '.join(words)}" if strangers else ""


def command_lines(block: Block) -> list[list[str]]:
    """The commands of a bash block as words: loops unrolled, without `NAME=value` before and `> file` behind them."""
    commands = []
    for line in _LOOP.sub(_unrolled, block.text.replace("\\\n", " ")).splitlines():
        words = shlex.split(line, comments=True)
        for number, word in enumerate(words):
            if word in (">", "2>", "|"):
                words = words[:number]
                break
        for command in _split(words, "&&"):
            while command and _ASSIGNMENT.fullmatch(command[0]):
                command = command[1:]
            if command:
                commands.append(command)
    return commands


def _unrolled(loop: re.Match[str]) -> str:
    name, values, body = loop.groups()
    return "".join(re.sub(rf"\$\{{?{name}\b}}?", value, body) for value in values.split())


def _split(words: list[str], at: str) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    for word in words:
        if word == at:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def own_program(command: list[str]) -> tuple[str, list[str]] | None:
    """(program, its arguments) of a command that runs CMPF: "cmpf", "make", a script "tools/x.py", or "-m MODULE".

    A container of an image `cmpf:...` runs "cmpf".
    """
    if command[0] in ("cmpf", "make"):
        return command[0], command[1:]
    for place, word in enumerate(command):
        if command[0] == "docker" and re.fullmatch(r"cmpf:\w+", word) and "run" in command:
            return "cmpf", command[place + 1 :]
        if re.fullmatch(r"(tools|demo|datasets|benchmarks)/[\w/]+\.py", word):
            return word, command[place + 1 :]
        if word == "-m" and command[place + 1].split(".")[0] in ("cmpf", "benchmarks"):
            return f"-m {command[place + 1]}", command[place + 2 :]
    return None


def _subjects(block: Block) -> set[str]:
    """The words by which a test must know the programs of a bash block."""
    if block.language not in SHELL:
        return set()
    names = set()
    for command in command_lines(block):
        program, arguments = own_program(command) or ("", [])
        if program in ("cmpf", "make"):
            names.add(arguments[0] if arguments else program)
        elif program and "NAME" not in program:
            module = program.removeprefix("-m ")
            names.add(Path(module).stem if "/" in module else module.rpartition(".")[2])
    return names
