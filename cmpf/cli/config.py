# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf config: shows a configuration with the origin of each value, lists all keys, and prints a JSON Schema."""

from __future__ import annotations

import argparse
import json
import shutil

from cmpf.cli.command import DONE, Commands, add_command, add_debug

EXAMPLES = """examples:
  cmpf config show configs/shapes/cmpf_tiny.yaml                     all values and where they come from
  cmpf config show shapes/cmpf_tiny SOLVER.MAX_ITER 300              with overrides
  cmpf config keys                                                   all keys: default, allowed values, meaning
  cmpf config keys 'MODEL.*INJECTOR*'                                matching keys
  cmpf config schema > cmpf.schema.json                              JSON Schema, for editors
  cmpf config keys --markdown > docs/configuration.md                documentation page
"""
SHOW, KEYS, SCHEMA = ACTIONS = ("show", "keys", "schema")


def add_parser(commands: Commands) -> None:
    """Adds the command."""
    parser = add_command(
        commands,
        "config",
        help="show configurations and their keys",
        description="Shows a configuration with the origin of each value, lists keys, or prints a JSON Schema.",
        usage="cmpf config show FILE [KEY VALUE ...] | keys [PATTERN] [--markdown] | schema",
        examples=EXAMPLES,
    )
    parser.add_argument("action", choices=ACTIONS, help="what to print")
    parser.add_argument(
        "words",
        nargs="*",
        metavar="FILE [KEY VALUE ...] | PATTERN",
        help="show: YAML file, or its name under configs/, and overrides; keys: part of a key, or a pattern with *",
    )
    parser.add_argument("--markdown", action="store_true", help="keys: print as a documentation page")
    add_debug(parser)
    parser.set_defaults(run=run, usage_error=parser.error)


def run(arguments: argparse.Namespace) -> int:
    """Prints the configuration, the keys or the schema."""
    action, words = arguments.action, arguments.words
    if action == SHOW and not words:
        arguments.usage_error("show needs a FILE, or its name under configs/")
    if (action == KEYS and len(words) > 1) or (action == SCHEMA and words):
        arguments.usage_error(
            f"{action} takes {'one PATTERN' if action == KEYS else 'nothing'}, got {' '.join(words)}"
        )
    if arguments.markdown and (action != KEYS or words):
        arguments.usage_error("--markdown is for all keys: cmpf config keys --markdown")
    print(_text(action, words, markdown=arguments.markdown), end="")
    return DONE


def _text(action: str, words: list[str], *, markdown: bool) -> str:
    from cmpf.config import describing, resolve

    if action == SHOW:
        return describing.config_as_yaml(resolve(words[0], words[1:]))
    if action == SCHEMA:
        return json.dumps(describing.json_schema(), indent=2) + "\n"
    if markdown:
        return describing.keys_as_markdown()
    return describing.keys_as_text(
        describing.matching_keys(*words), width=shutil.get_terminal_size((100, 24)).columns
    )
