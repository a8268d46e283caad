# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A configuration and its keys as text: for a terminal, for the documents, for editors."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from math import inf
from typing import Any

import yaml

from cmpf.config.files import BASE_KEY
from cmpf.config.keys import KEYS, Key, Origin, nearest_key
from cmpf.config.loading import Resolved
from cmpf.config.schema import Config
from cmpf.config.values import Tree
from cmpf.errors import ConfigError

COLUMN = 56  # where the origins of values begin
INTRODUCTION = """\
# Configuration

Made by `cmpf config keys --markdown > docs/configuration.md` from `cmpf/config/schema.py`; change it there.

A configuration is a YAML file. It says what differs from the defaults below, which are the full-size published model,
and from the files that its `_BASE_` names: one path or a list of paths, beside the file. `KEY VALUE` pairs at the end
of a command line come last. Every key, type and value is checked before anything runs, and all issues are told at once.

<!-- run: tests/config/test_configuration_page.py -->
```bash
cmpf config show configs/shapes/cmpf_tiny.yaml SOLVER.MAX_ITER 300
cmpf config keys INJECTOR
cmpf config schema > cmpf.schema.json
```

`show` prints every value with the file and line, or the override, that it comes from. `keys` prints what stands below.
`schema` prints a JSON Schema: with `# yaml-language-server: $schema=cmpf.schema.json` as the first line of a YAML file,
editors complete its keys and mark what is wrong.

In Python a configuration is one object that cannot be changed:

<!-- run: tests/config/test_loading.py -->
```python
import cmpf.config

cfg = cmpf.config.get_cfg("shapes/cmpf_tiny", ["SOLVER.MAX_ITER", 300])
print(cfg.MODEL.CMPF.CLIP.NAME, cfg.SOLVER.STEPS)
longer = cmpf.config.with_overrides(cfg, {"SOLVER.MAX_ITER": 600})  # checked as well
text = longer.dump()  # YAML that get_cfg reads as an equal configuration
```

Only `MODEL.CMPF.EXTRA` takes keys that are not listed here: a plug-in finds `MODEL.CMPF.EXTRA.GATE.START` of a file or
of a command line as `cfg.MODEL.CMPF.EXTRA.GATE.START`. What several keys must do together (heads divide a width, an
injector acts in some layer) is checked after the values.
"""


def shown_config(resolved: Resolved) -> str:
    """All keys as YAML, which `get_cfg` reads again; behind each value where it comes from."""
    return "\n".join(_lines(resolved.cfg.model_dump(), resolved.origins, "")) + "\n"


def _lines(node: Mapping[str, Any], origins: Mapping[str, Origin], above: str) -> Iterator[str]:
    indent = "  " * (above.count("."))
    for name, value in node.items():
        key = f"{above}{name}"
        if isinstance(value, dict) and value:
            yield f"{indent}{name}:"
            yield from _lines(value, origins, f"{key}.")
        else:
            yield f"{indent}{name}: {_yaml(value)}".ljust(COLUMN) + f"  # {_origin(key, origins)}"


def _yaml(value: Any) -> str:
    """On one line; as the only item of a list, because a value alone gets a line that ends the document."""
    return yaml.safe_dump([value], default_flow_style=True, width=inf, allow_unicode=True).strip()[1:-1]


def _origin(key: str, origins: Mapping[str, Origin]) -> str:
    """Of the key, or of the tree of a plug-in that was set as a whole."""
    while key and key not in origins:
        key = key.rpartition(".")[0]
    return str(origins[key]) if key else "default"


def matching_keys(pattern: str = "") -> list[Key]:
    """Keys whose name has `pattern` in it, or matches it where it has *, in any case.

    Raises:
        ConfigError: there is none.
    """
    wanted = pattern.upper() if "*" in pattern else f"*{pattern.upper()}*"
    found = [key for name, key in KEYS.items() if fnmatchcase(name, wanted)]
    if not found:
        raise ConfigError(f"no key is like {pattern}, did you mean {nearest_key(pattern, KEYS)}?")
    return found


def keys_as_text(keys: Iterable[Key], *, width: int) -> str:
    """Name and default of each key, then its type, what it may hold, and its meaning, in lines of `width`."""
    blocks: list[str] = []
    for key in keys:
        body = textwrap.wrap(f"{_type(key)}: {key.allowed}", width - 4) + textwrap.wrap(
            key.meaning, width - 4
        )
        head = textwrap.fill(f"{key.name}: {_default(key)}", width, subsequent_indent="    ")
        blocks.append("\n    ".join([head, *body]))
    return "\n".join(blocks) + "\n"


def keys_as_markdown() -> str:
    """The page docs/configuration.md: a table of each section."""
    sections: dict[str, list[Key]] = {}
    for name, key in KEYS.items():
        above = name.split(".")[:-1]
        for depth in range(len(above) + 1):  # a section stands before those in it
            sections.setdefault(".".join(above[:depth]), [])
        sections[".".join(above)].append(key)
    return INTRODUCTION + "".join(_table(name, keys) for name, keys in sections.items() if keys)


def _table(section: str, keys: list[Key]) -> str:
    lines = [f"\n## {section or 'The run'}", "", (keys[0].section.__doc__ or "").strip(), ""]
    lines += ["| key | type | default | allowed | meaning |", "|---|---|---|---|---|"]
    for key in keys:
        lines.append(f"| `{key.name}` | {_type(key)} | `{_default(key)}` | {key.allowed} | {key.meaning} |")
    return "\n".join(lines) + "\n"


def _type(key: Key) -> str:
    return type(key.field.default).__name__.lower()


def _default(key: Key) -> str:
    default = key.field.default
    return _yaml(default.model_dump() if isinstance(default, Tree) else default)


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a configuration file, for editors."""
    schema = Config.model_json_schema()
    names = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    base = {BASE_KEY: {**names, "description": "files whose settings come first, beside this one"}}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        **schema,
        "properties": {**base, **schema["properties"]},
    }
