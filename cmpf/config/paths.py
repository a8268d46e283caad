# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Where the shipped configuration files are."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from cmpf.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parent.parent


def config_root() -> Path:
    """Folder of the shipped configs: inside the package when installed, beside it in a checkout."""
    installed = _PACKAGE / "configs"
    return installed if installed.is_dir() else _PACKAGE.parent / "configs"


def find_config(name_or_path: str | Path) -> Path:
    """Finds a YAML file by path, by its path under configs/, or by its bare name.

    Args:
        name_or_path: "my/own.yaml", "configs/shapes/cmpf_tiny.yaml", "shapes/cmpf_tiny" or "cmpf_tiny".
    Returns:
        Absolute path of an existing file.
    Raises:
        ConfigError: no such file, a folder, or a bare name that several shipped configs have.
    """
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return path.resolve()
    root = config_root()
    relative = Path(*path.parts[1:]) if path.parts[:1] == ("configs",) else path
    for candidate in (relative, relative.with_name(relative.name + ".yaml")) if relative.name else ():
        if (root / candidate).is_file():
            return root / candidate
    shipped = {str(file.relative_to(root).with_suffix("")): file for file in sorted(root.rglob("*.yaml"))}
    same_name = [name for name in shipped if str(relative) == Path(name).name]
    if len(same_name) == 1:
        return shipped[same_name[0]]
    if same_name:
        raise ConfigError(
            f"{name_or_path}: several configs have this name: {', '.join(same_name)}; write one"
        )
    near = _nearest(str(relative).removesuffix(".yaml"), list(shipped))
    hint = f"did you mean {' or '.join(near)}?" if near else f"shipped configs are in {root}"
    what = "is a folder, expected a YAML file" if path.is_dir() else "no such config file"
    raise ConfigError(f"{name_or_path}: {what}; {hint}")


def _nearest(wanted: str, names: list[str]) -> list[str]:
    whole = get_close_matches(wanted, names, n=3, cutoff=0.5)
    last = get_close_matches(Path(wanted).name, [Path(name).name for name in names], n=3, cutoff=0.6)
    return list(dict.fromkeys(whole + [name for name in names if Path(name).name in last]))[:3]
