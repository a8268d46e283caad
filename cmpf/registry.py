# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Registry of named parts from which the factory builds models, trainings and evaluations, and import of plug-ins.

    @cmpf.register("query_injector", "gated")
    class GatedQueryInjector(QueryInjector): ...

`MODEL.CMPF.QUERY_INJECTOR.NAME: gated` selects the class if MODEL.CMPF.PLUGINS or --plugin names its module. CMPF's own
parts are registered the same way. docs/plugins.md lists the interface of each slot.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from importlib import import_module
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from cmpf.errors import ConfigError, PluginError

Part = TypeVar("Part", bound=Callable[..., Any])

# Slot -> the configuration key that selects its part.
SLOTS = {
    "clip": "MODEL.CMPF.CLIP.NAME",
    "sam": "MODEL.CMPF.SAM.NAME",
    "pixel_decoder": "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME",
    "transformer_decoder": "MODEL.SEM_SEG_HEAD.TRANSFORMER_DECODER_NAME",
    "query_injector": "MODEL.CMPF.QUERY_INJECTOR.NAME",
    "feature_injector": "MODEL.CMPF.FEATURE_INJECTOR.NAME",
    "criterion": "MODEL.CMPF.CRITERION_NAME",
    "class_ensemble": "MODEL.CMPF.CLASS_ENSEMBLE_NAME",
    "mask_ensemble": "MODEL.CMPF.MASK_ENSEMBLE_NAME",
    "augmentation": "INPUT.AUGMENTATIONS",
    "dataset_reader": "reader (in a dataset's YAML file)",
    "evaluator": "TEST.EVALUATORS",
}
PLUGINS_KEY = "MODEL.CMPF.PLUGINS"
MAY_RETURN_NONE = ("augmentation", "evaluator")  # None = it does not apply


@dataclass(frozen=True)
class Registered:
    """A registered part. module, location ("file:line"): where it was registered."""

    part: Callable[..., Any]
    module: str
    location: str

    def is_rerun_of(self, other: Registered) -> bool:
        """Whether the same code was run again: a reloaded module or a re-executed notebook cell."""
        if (self.module, _qualname(self.part)) != (other.module, _qualname(other.part)):
            return False
        return self.module == "__main__" or self.location == other.location


_parts: dict[str, dict[str, Registered]] = {slot: {} for slot in SLOTS}


def register(slot: str, name: str) -> Callable[[Part], Part]:
    """A decorator that registers a function or class under a name and returns it unchanged.

    Args:
        slot: one of SLOTS.
        name: value of the slot's configuration key that selects the part.
    Raises:
        PluginError: the slot is unknown, or the name is already registered (names both locations).
    """
    if slot not in SLOTS:
        raise PluginError(f"{slot!r} is no slot for parts{_nearest(slot, SLOTS)} Slots: {', '.join(SLOTS)}")

    def add(part: Part) -> Part:
        frame = sys._getframe(1)
        location = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        new = Registered(part, str(frame.f_globals.get("__name__")), location)
        existing = _parts[slot].get(name)
        if existing is not None and not new.is_rerun_of(existing):
            raise PluginError(
                f"{slot} {name!r} is registered twice: at {existing.location} and at {new.location}; give one of them "
                "another name"
            )
        _parts[slot][name] = new
        return part

    return add


def registered(slot: str) -> tuple[str, ...]:
    """The registered names of a slot, in order of registration."""
    return tuple(_parts[slot])


def find(slot: str, name: str) -> Callable[..., Any]:
    """Returns the part registered under a name.

    Raises:
        ConfigError: the name is unknown; suggests the nearest one and lists all.
    """
    if name in _parts[slot]:
        return _parts[slot][name].part
    raise ConfigError(
        f"{SLOTS[slot]}: {slot} {name!r} is unknown{_nearest(name, _parts[slot])} Registered: "
        f"{', '.join(_parts[slot])}. A part of your own is registered by a module that {PLUGINS_KEY} or --plugin names"
    )


def resolve(slot: str, name: str, *, like: Part, extra: Any = None) -> Part:
    """Returns the part registered under a name after checking that it can be called like the slot's default.

    Args:
        like: a function or class with the slot's signature. Its positional-or-keyword parameters are passed by
            position, its keyword-only ones by keyword.
        extra: the user's own keys, bound to the part's parameter `extra` if it has one; None = there are none.
    Returns:
        The part. When called, it raises PluginError if it returns None in a slot that needs a result.
    Raises:
        ConfigError: the name is unknown.
        PluginError: the part cannot be called with the slot's parameters.
    """
    part = find(slot, name)
    parameters = inspect.signature(like).parameters.values()
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    keyword_only = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    extra_argument: dict[str, Any] = {}
    try:
        signature = inspect.signature(part)
        if extra is not None and "extra" in signature.parameters:
            extra_argument = {"extra": extra}
        signature.bind(*positional, **dict.fromkeys(keyword_only), **extra_argument)
    except (TypeError, ValueError) as error:  # ValueError: a type of Python itself, such as dict
        with_extra = ", and with extra where it has such a parameter" if extra is not None else ""
        raise PluginError(
            f"{_title(slot, name)} does not take what CMPF calls it with: {error}. A {slot} is called with "
            f"{', '.join(positional + keyword_only)}{with_extra}; see docs/plugins.md"
        ) from error
    if part is like:
        return part
    return partial(_call, slot, name, **extra_argument)  # type: ignore[return-value]


def _call(slot: str, name: str, /, *arguments: Any, **keywords: Any) -> Any:
    made = _parts[slot][name].part(*arguments, **keywords)
    if made is None and slot not in MAY_RETURN_NONE:
        raise PluginError(f"{_title(slot, name)} returned None; is a return statement missing?")
    return made


def _title(slot: str, name: str) -> str:
    return f"{slot} {name!r} ({_parts[slot][name].location})"


def import_plugins(plugins: Iterable[str], *, saved: Mapping[str, str] | None = None) -> None:
    """Imports plug-ins, the modules that register parts. Modules that are already imported are not reloaded.

    Args:
        plugins: module names ("my_package.my_parts"), also searched for in the current folder, or paths of .py files,
            whose stem becomes the module name.
        saved: `plugin_files` stored with the weights, for the error message about a missing plug-in.
    Raises:
        PluginError: a plug-in is missing or raises an exception; the message says where it was searched and the fix.
    """
    for plugin in plugins:
        _import(plugin, (saved or {}).get(module_name(plugin), ""))


def module_name(plugin: str) -> str:
    """Module name of a plug-in that is given as a module name or as a path."""
    return Path(plugin).stem if _is_path(plugin) else plugin


def merge_plugins(configured: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """Merges the plug-ins of a configuration and of a command line, each module once; `given` takes precedence."""
    merged = {module_name(plugin): plugin for plugin in (*configured, *given)}
    return tuple(merged.values())


def plugin_files(plugins: Iterable[str]) -> dict[str, str]:
    """Module name -> file of each plug-in, as stored in checkpoints."""
    return {module_name(plugin): str(getattr(_import(plugin), "__file__", "")) for plugin in plugins}


def _import(plugin: str, saved: str = "") -> ModuleType:
    name = module_name(plugin)
    was = f" It was {saved} when the weights were saved." if saved else ""
    try:
        if _is_path(plugin):
            return _import_file(Path(plugin).expanduser(), name, was)
        return _import_module(name)
    except PluginError:
        raise
    except (Exception, SystemExit) as error:
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name
            and (name + ".").startswith(error.name + ".")
        ):
            raise PluginError(
                f"plug-in {plugin} ({PLUGINS_KEY}, --plugin) is not there: no module {error.name} in {Path.cwd()} or "
                f"on Python's path.{was} Start in the folder where it lies, add that folder to PYTHONPATH, or give "
                f"--plugin PATH/{name.rpartition('.')[2]}.py (in Python plugins=[...])"
            ) from error
        raise PluginError(
            f"plug-in {plugin} cannot be imported: {type(error).__name__}: {error}{_line_in(error, name)}"
        ) from error


def _import_module(name: str) -> ModuleType:
    if not all(part.isidentifier() for part in name.split(".")):
        raise PluginError(
            f"plug-in {name}: expected the name of a module, such as my_package.my_parts, or the path of a .py file"
        )
    if name not in sys.modules and find_spec(name.partition(".")[0]) is None:
        # Console scripts do not have the current folder on sys.path; worker processes inherit sys.path.
        sys.path.append(str(Path.cwd()))
    return import_module(name)


def _import_file(path: Path, name: str, was: str) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise PluginError(
            f"plug-in {path}: no such file.{was} Give the path of a .py file or the name of a module"
        )
    if (loaded := sys.modules.get(name)) is not None:
        if getattr(loaded, "__file__", None) and Path(str(loaded.__file__)).resolve() == path:
            return loaded
        origin = getattr(loaded, "__file__", "Python itself")
        raise PluginError(
            f"plug-in {path}: a module {name} is already imported, from {origin}; rename one of them"
        )
    if str(path.parent) not in sys.path:  # for imports of sibling modules, and for worker processes
        sys.path.append(str(path.parent))
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise PluginError(f"plug-in {path}: not a Python file; give the path of a .py file")
    module = sys.modules[name] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_path(plugin: str) -> bool:
    return plugin.endswith(".py")


def _line_in(error: BaseException, name: str) -> str:
    """Innermost line of the plug-in in an exception's traceback, as " (FILE line N)"; "" if there is none."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == name:
            line = f" ({trace.tb_frame.f_code.co_filename} line {trace.tb_lineno})"
        trace = trace.tb_next
    return line


def _qualname(part: Callable[..., Any]) -> str:
    return str(getattr(part, "__qualname__", ""))


def _nearest(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1)
    return f", did you mean {near[0]}?" if near else "."
