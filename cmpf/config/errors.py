# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What is wrong with a configuration, where it stands, and the one message that says it all."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from cmpf.errors import ConfigError

SHOWN_ISSUES = 50


@dataclass(frozen=True)
class Origin:
    """Where a setting comes from: a line of a file, or an override when `file` is None."""

    file: Path | None = None
    line: int | None = None

    def __str__(self) -> str:
        if self.file is None:
            return "override"
        return f"{shown(self.file)} line {self.line}" if self.line else shown(self.file)


@dataclass(frozen=True)
class Issue:
    """One thing that is wrong; `key` is empty where a whole file is meant, `origin` None for no place."""

    key: str
    message: str
    origin: Origin | None

    def text(self, *, with_file: bool) -> str:
        line = f"line {self.origin.line}" if self.origin and self.origin.line else ""
        place = str(self.origin or "") if with_file else line
        return ": ".join(part for part in (place, self.key, self.message) if part)


def shown(path: Path) -> str:
    """A path as people read it: relative to the current folder where that is shorter."""
    relative = os.path.relpath(path)
    return relative if len(relative) < len(str(path)) else str(path)


def as_error(issues: Sequence[Issue]) -> ConfigError:
    """One error for all issues; the file stands once in front where all are in the same."""
    count = f"{len(issues)} issue{'s' if len(issues) > 1 else ''}"
    files = {issue.origin.file if issue.origin else None for issue in issues}
    only = next(iter(files)) if len(files) == 1 else None
    where = f" in {shown(only)}" if only else ""
    texts = [issue.text(with_file=not only) for issue in issues[:SHOWN_ISSUES]]
    if len(issues) > SHOWN_ISSUES:
        texts.append(f"and {len(issues) - SHOWN_ISSUES:,} more")
    return ConfigError(f"{count}{where}: " + " · ".join(texts))


def nearest_key(key: str, known: Iterable[str]) -> str:
    """The known key most like `key`; its last part counts as much as the whole: sections get forgotten."""

    def likeness(candidate: str) -> float:
        whole = SequenceMatcher(None, key.upper(), candidate).ratio()
        last = SequenceMatcher(None, key.upper().rpartition(".")[2], candidate.rpartition(".")[2]).ratio()
        return whole + last

    return max(known, key=likeness)


def quoted(value: Any) -> str:
    """A value as a message shows it."""
    if value is None:
        return "nothing"
    text = f'"{value}"' if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
