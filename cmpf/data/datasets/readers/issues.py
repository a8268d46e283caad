# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Collects everything that is wrong with a dataset, so that one message tells all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable
from pathlib import Path

from cmpf.errors import DatasetError

NAMED_ISSUES = 3  # of each kind, in an error message


class Issues:
    """What is wrong, by kind."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def add(self, kind: str, name: object) -> None:
        """One more issue; `kind` is a plural, such as "missing images"."""
        self._names.setdefault(kind, []).append(str(name))

    def add_doubles(self, kind: str, names: Iterable[Hashable], where: str = "") -> None:
        """An issue for each name that comes more than once; `where` follows the name."""
        for name, count in Counter(names).items():
            if count > 1:
                self.add(kind, f"{name}{where}")

    def raise_any(self, source: Path) -> None:
        """
        Raises:
            DatasetError: there are issues; counts each kind and names the first few.
        """
        if not self._names:
            return
        parts = []
        for kind, names in self._names.items():
            more = ", ..." if len(names) > NAMED_ISSUES else ""
            parts.append(f"{len(names)} {kind}: {', '.join(names[:NAMED_ISSUES])}{more}")
        raise DatasetError(f"{source}: {'; '.join(parts)}. Repair the dataset or prepare it again")
