# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Own parts: names -> the functions and classes that the factory builds a model, a training or an evaluation of.

    @cmpf.register("query_injector", "gated")
    class GatedQueryInjector(QueryInjector): ...

`MODEL.CMPF.QUERY_INJECTOR.NAME: gated` selects it, once MODEL.CMPF.PLUGINS or --plugin names the module that it is in.
CMPF's own parts are registered in the same way. A slot's part is called as CMPF's own is; docs/plugins.md says what it
has to give.
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

# Slot -> what selects a part of it.
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


@dataclass(frozen=True)
class Registered:
    """A part and the place where it was registered. module: name of the module that the place is in."""

    part: Callable[..., Any]
    module: str
    place: str

    def is_again(self, other: Registered) -> bool:
        """Whether `other` is the same piece of code run once more: a module reloaded, a cell of a notebook."""
        if (self.module, _qualified(self.part)) != (other.module, _qualified(other.part)):
            return False
        return self.module == "__main__" or self.place == other.place


_parts: dict[str, dict[str, Registered]] = {slot: {} for slot in SLOTS}


def register(slot: str, name: str) -> Callable[[Part], Part]:
    """A decorator that makes a function or class selectable by name; it returns what it is given.

    Args:
        slot: one of SLOTS.
        name: what the configuration key of the slot selects it by.
    Raises:
        PluginError: no such slot, or the name is taken: names both places.
    """
    if slot not in SLOTS:
        raise PluginError(f"{slot!r} is no slot for parts{_nearest(slot, SLOTS)} Slots: {', '.join(SLOTS)}")

    def add(part: Part) -> Part:
        frame = sys._getframe(1)
        place = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        new = Registered(part, str(frame.f_globals.get("__name__")), place)
        known = _parts[slot].get(name)
        if known is not None and not known.is_again(new):
            raise PluginError(
                f"{slot} {name!r} is registered twice: at {known.place} and at {new.place}; give one of them "
                "another name"
            )
        _parts[slot][name] = new
        return part

    return add


def registered(slot: str) -> tuple[str, ...]:
    """The names of a slot, as they were registered."""
    return tuple(_parts[slot])


def find(slot: str, name: str) -> Callable[..., Any]:
    """The part of a slot that has a name.

    Raises:
        ConfigError: there is none; lists those that there are, the nearest first.
    """
    if name in _parts[slot]:
        return _parts[slot][name].part
    raise ConfigError(
        f"{SLOTS[slot]}: {slot} {name!r} is unknown{_nearest(name, _parts[slot])} Registered: "
        f"{', '.join(_parts[slot])}. A part of your own is registered by a module that {PLUGINS_KEY} or --plugin names"
    )


def bound(slot: str, name: str, *, like: Part, extra: Any = None) -> Part:
    """The part of a slot, ready to be called as the slot says.

    Args:
        like: a function or class with the parameters that it will be called with; those that may be given by position
            are given so.
        extra: MODEL.CMPF.EXTRA, handed to a part that has a parameter of this name.
    Raises:
        ConfigError: unknown name. PluginError: the part's parameters are not those of the slot.
    """
    part = find(slot, name)
    parameters = inspect.signature(like).parameters.values()
    unnamed = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    named = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
    signature = inspect.signature(part)
    own = {"extra": extra} if "extra" in signature.parameters else {}
    try:
        signature.bind(*unnamed, **dict.fromkeys(named), **own)
    except TypeError as error:
        raise PluginError(
            f"{slot} {name!r} ({_parts[slot][name].place}) does not take what CMPF calls it with: {error}. A {slot} "
            f"is called with {', '.join(unnamed + named)}, and with extra where it has such a parameter; see "
            "docs/plugins.md"
        ) from error
    return partial(part, **own) if own else part  # type: ignore[return-value]


def import_plugins(names: Iterable[str], *, saved: Mapping[str, str] | None = None) -> list[ModuleType]:
    """Imports the modules that register parts; what is already imported stays as it is.

    Args:
        names: modules ("my_package.my_parts"), looked for in the current folder too, or paths of .py files, of which
            the name without .py becomes the module's.
        saved: what `origins` said when the weights at hand were saved, for the message about a missing one.
    Raises:
        PluginError: one is missing or raises an exception; the message says where it was looked for and the fix.
    """
    return [_import(name, (saved or {}).get(module_name(name), "")) for name in names]


def module_name(plugin: str) -> str:
    """The name that a plug-in has as a module, however it was given."""
    return Path(plugin).stem if _is_path(plugin) else plugin


def merged(named: Sequence[str], given: Sequence[str]) -> tuple[str, ...]:
    """The plug-ins of a configuration and those of a command line, each module once, at the place that `given` says."""
    own = {module_name(name): name for name in named}
    return tuple((own | {module_name(name): name for name in given}).values())


def origins(names: Iterable[str]) -> dict[str, str]:
    """Plug-in -> the file that it was imported from, as checkpoints keep it."""
    return {module_name(name): str(getattr(_import(name), "__file__", "")) for name in names}


def _import(plugin: str, saved: str = "") -> ModuleType:
    name = module_name(plugin)
    try:
        return _from_file(Path(plugin).expanduser(), name) if _is_path(plugin) else _from_path(name)
    except PluginError:
        raise
    except Exception as error:
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name
            and (name + ".").startswith(error.name + ".")
        ):
            was = f" It was {saved} when the weights were saved." if saved else ""
            raise PluginError(
                f"plug-in {plugin} ({PLUGINS_KEY}, --plugin) is not there: no module {error.name} in {Path.cwd()} or "
                f"on Python's path.{was} Start in the folder where it lies, add that folder to PYTHONPATH, or give "
                f"--plugin PATH/{name.rpartition('.')[2]}.py (in Python plugins=[...])"
            ) from error
        raise PluginError(
            f"plug-in {plugin} cannot be imported: {type(error).__name__}: {error}{_line_in(error, name)}"
        ) from error


def _from_path(name: str) -> ModuleType:
    if name not in sys.modules and find_spec(name.partition(".")[0]) is None:
        # A console script does not have the current folder on its path, and workers that are started look there too.
        sys.path.append(str(Path.cwd()))
    return import_module(name)


def _from_file(path: Path, name: str) -> ModuleType:
    path = path.resolve()
    if not path.is_file():
        raise PluginError(
            f"plug-in {path}: no such file; give the path of a .py file or the name of a module"
        )
    if (known := sys.modules.get(name)) is not None:
        if getattr(known, "__file__", None) and Path(str(known.__file__)).resolve() == path:
            return known
        raise PluginError(
            f"plug-in {path}: a module {name} is already imported, from {getattr(known, '__file__', 'Python itself')}; "
            "rename one of them"
        )
    if str(path.parent) not in sys.path:  # its neighbors, and worker processes, import from there
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
    """Where in the plug-in an exception comes from."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__") == name:
            line = f" ({trace.tb_frame.f_code.co_filename} line {trace.tb_lineno})"
        trace = trace.tb_next
    return line


def _qualified(part: Callable[..., Any]) -> str:
    return str(getattr(part, "__qualname__", ""))


def _nearest(name: str, names: Iterable[str]) -> str:
    near = get_close_matches(name, list(names), n=1)
    return f", did you mean {near[0]}?" if near else "."
