# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""YAML from anybody: what would take minutes or all memory to read is refused, and nothing in it becomes code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cmpf.common.files import read_text

MAX_BYTES = 2**20
MAX_NODES = 30_000  # keys and values, those behind aliases counted at each place
MAX_DEPTH = 50
MAX_LETTERS = 10_000  # of one key or value
# What SafeLoader's constructors raise for values such as `!!int abc` and 2001-99-99.
_ODD_VALUES = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError)


class BoundedLoader(yaml.SafeLoader):
    """SafeLoader with limits; everything that is wrong is a yaml.MarkedYAMLError with `problem` and a line."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Counts what the file writes out, while it is read."""
        self._nodes += 1
        self._depth += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        if self._nodes > MAX_NODES:
            raise yaml.MarkedYAMLError(None, None, f"more than {MAX_NODES:,} keys and values", mark)
        if self._depth > MAX_DEPTH:
            raise yaml.MarkedYAMLError(None, None, f"nested more than {MAX_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.ScalarNode) and len(node.value) > MAX_LETTERS:
            raise yaml.MarkedYAMLError(None, None, f"a value of more than {MAX_LETTERS:,} letters", mark)
        return node

    def get_single_node(self) -> yaml.Node | None:
        """The whole document; aliases may not multiply it."""
        node = super().get_single_node()
        if node is not None and _unfolded(node, {}) > MAX_NODES:
            issue = f"more than {MAX_NODES:,} keys and values behind its aliases"
            raise yaml.MarkedYAMLError(None, None, issue, node.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """A value; one that its tag or form does not allow is named with its line."""
        try:
            return super().construct_object(node, deep=deep)
        except yaml.YAMLError:
            raise
        except _ODD_VALUES as error:
            kind = str(node.tag).rpartition(":")[2]
            issue = f"{str(node.value)[:40]!r} is no {kind}"
            raise yaml.MarkedYAMLError(None, None, issue, node.start_mark) from error


def load_yaml(text: str) -> Any:
    """The value of a YAML text.

    Raises:
        yaml.YAMLError: it is malformed or beyond the limits.
    """
    loader = BoundedLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def read_yaml_text(path: Path) -> str:
    """Text of a YAML file.

    Raises:
        OSError: it cannot be read, is no regular file, or is larger than MAX_BYTES. UnicodeDecodeError: no UTF-8.
    """
    return read_text(path, limit=MAX_BYTES)


def _unfolded(node: yaml.Node, known: dict[int, int]) -> int:
    """Nodes of a tree when every alias is written out; one that contains itself counts once."""
    if id(node) not in known:
        known[id(node)] = 1  # while its content is counted
        children: list[yaml.Node] = []
        if isinstance(node, yaml.SequenceNode):
            children = node.value
        elif isinstance(node, yaml.MappingNode):
            children = [child for pair in node.value for child in pair]
        known[id(node)] += sum(_unfolded(child, known) for child in children)
    return known[id(node)]
