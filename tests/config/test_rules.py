# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The table of allowed values covers the tree of keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cmpf.config import default_config
from cmpf.config.relations import RELATIONS
from cmpf.config.rules import RULES


def leaves(node: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in node.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def test_every_key_has_a_rule_and_every_rule_a_key():
    assert set(RULES) == {key for key, _ in leaves(default_config())}


def test_every_default_obeys_its_rule():
    assert [key for key, value in leaves(default_config()) if not RULES[key].test(value)] == []


def test_relations_speak_of_known_keys_and_hold_for_the_defaults():
    for relation in RELATIONS:
        assert set(relation.keys) <= set(RULES)
        assert relation.issue(default_config()) == ""
