# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What commands share: their parsers, how they end (exit code, one line for an error), how they load a model, soon."""

from __future__ import annotations

import argparse
import gc
import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import wraps
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeAlias

from cmpf.common.cpu import keep_freed_memory, uncollected
from cmpf.errors import CMPFError

if TYPE_CHECKING:
    from cmpf.predictor import Predictor


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
DONE, FAILED = 0, 1
TINY = "cmpf_tiny"  # the model that CMPF ships, where a command line names none
COMPILER = "torch._dynamo"
LIBRARIES = ("torchvision", "timm", "open_clip")
NATIVE, DETECTRON2 = ENGINES = ("native", "detectron2")  # --engine: whose loop trains and evaluates


def run_command(arguments: argparse.Namespace, *, prefix: str) -> int:
    """Calls `arguments.run(arguments)`.

    Args:
        arguments: with `run`, which returns an exit code, and `debug`, which lets errors through.
        prefix: what the line of an error begins with.
    Returns:
        The exit code; 1 after an error, of which one line is printed, after Ctrl-C, and where nobody reads on
        (`cmpf datasets | head`).
    """
    # Pillow's, of images that are refused with a line of their own.
    warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()  # here, where a reader that has gone can be met quietly
        return code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    except BrokenPipeError:
        # Python flushes once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if arguments.debug:
            raise
        # What is not one of our own errors is a bug or a machine's trouble; then its kind tells something.
        ours = isinstance(error, CMPFError)
        line = f"{error}" if ours else f"{type(error).__name__}: {error} (--debug shows where)"
        print(f"{prefix}: {' '.join(part.strip() for part in line.splitlines())}", file=sys.stderr)
    finally:
        gc.unfreeze()  # what `uncollected` froze
    return FAILED


def run_script(
    add_parser: Callable[[Commands], None], command: str, argv: Sequence[str] | None = None
) -> int:
    """Runs one command line of a script of tools/ that is the command `cmpf COMMAND` under another name."""
    return run_command(command_parser(add_parser, command).parse_args(argv), prefix="error")


def add_command(
    commands: Commands, name: str, *, help: str, description: str, examples: str, usage: str | None = None
) -> argparse.ArgumentParser:
    """Adds a command without options; the caller adds these, and `run` as a default.

    Args:
        help: its line in the help text of `cmpf`.
        description: what its own help text begins with.
        examples: what its help text ends with, printed as it stands.
        usage: for a command whose first word chooses what it does [made of the options].
    """
    return commands.add_parser(
        name,
        help=help,
        description=description,
        usage=usage,
        epilog=examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def command_parser(add_parser: Callable[[Commands], None], command: str) -> argparse.ArgumentParser:
    """The parser of one command alone."""
    commands = argparse.ArgumentParser(prog="cmpf").add_subparsers()
    add_parser(commands)
    return commands.choices[command]


def add_debug(parser: argparse.ArgumentParser) -> None:
    """The option that `run_command` looks at."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_model(container: argparse._ActionsContainer) -> None:
    """The option that names a model for load_model."""
    container.add_argument(
        "--model",
        default=TINY,
        metavar="NAME",
        help="zoo name, config path, model folder or Hub repository [%(default)s]",
    )


def add_weights(container: argparse._ActionsContainer) -> None:
    """The option that gives the model other weights."""
    container.add_argument("--weights", metavar="FILE", help="trained weights that replace the model's own")


def add_device(container: argparse._ActionsContainer) -> None:
    """The option that says where the model computes."""
    container.add_argument("--device", help="cpu, cuda, cuda:1, xpu, mps [a CUDA device if there is one]")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """The other options of load_model."""
    add_plugin(parser)
    add_allow_unused(parser)
    # An option, for a command whose own words would run into trailing ones.
    parser.add_argument(
        "--opts",
        nargs="+",
        default=[],
        metavar="KEY VALUE",
        help="changes to the model's configuration, such as TEST.ENSEMBLE.ENABLED True",
    )


def load_model(
    arguments: argparse.Namespace, *, device: str | None, overrides: Sequence[Any] = ()
) -> Predictor:
    """The model that a command line names, in a process with the threads that its configuration wants.

    Args:
        overrides: KEY VALUE of the command itself, which go before --opts.
    Raises:
        CMPFError: see cmpf.load.
    """
    keep_freed_memory()
    with uncollected():
        import cmpf

        import_libraries()
        from cmpf.factory import use_threads

        predictor = cmpf.load(
            arguments.model,
            device=device,
            weights=arguments.weights,
            overrides=[*arguments.opts, *overrides],
            plugins=arguments.plugin,
            allow_unused_weights=arguments.allow_unused_weights,
        )
    use_threads(predictor.cfg)
    return predictor


def add_allow_unused(parser: argparse.ArgumentParser) -> None:
    """The option that lets a file hold more weights than the model has."""
    parser.add_argument(
        "--allow-unused-weights",
        action="store_true",
        help="take a file with weights that the model does not have, and leave those out",
    )


def add_plugin(parser: argparse.ArgumentParser) -> None:
    """The option that names modules with parts of the user's own."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="import parts of your own from a module or a .py file, beside MODEL.CMPF.PLUGINS; may be given again",
    )


def not_negative(text: str) -> int:
    """A whole number from 0, as an argument's type."""
    return _whole_number(text, least=0)


def positive(text: str) -> int:
    """A whole number from 1, as an argument's type."""
    return _whole_number(text, least=1)


def _whole_number(text: str, *, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"expected a whole number from {least}, got {text}")
    return int(text)


def fraction(text: str) -> float:
    """A number from 0 to 1, as an argument's type."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text}")
    return value


def shard(text: str) -> tuple[int, int]:
    """One of several equal shares as an argument's type: "I/N", I from 0 to N - 1."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or int(found[1]) >= int(found[2]):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 0 to N - 1, such as 0/8, got {text}")
    return int(found[1]), int(found[2])


def import_libraries() -> None:
    """Imports LIBRARIES without torch's compiler; one that wants more of it than a decorator is left for its first use.

    torchvision imports the compiler with itself (`torchvision.ops.roi_align`, for a decorator of a function that no
    prediction calls), OpenCLIP and segment-anything import torchvision, and none of them has a switch: a thousand
    modules, a quarter of the processor time of `cmpf predict` for one image (5.7 s with this, 7.6 s without). Only a
    command does this, whose process is its own; `import cmpf` does not.
    """
    import torch  # noqa: F401  (it stands before its compiler)

    if COMPILER in sys.modules:
        return
    with _without_compiler():
        for name in LIBRARIES:
            try:
                importlib.import_module(name)
            except (ImportError, AttributeError):
                return


@contextmanager
def _without_compiler() -> Iterator[None]:
    package, utils = ModuleType(COMPILER), ModuleType(f"{COMPILER}.utils")
    package.__path__ = []
    setattr(package, "disable", _disable)  # noqa: B010  (a module declares no attributes)
    setattr(utils, "is_compile_supported", _is_compile_supported)  # noqa: B010
    stand_ins = {module.__name__: module for module in (package, utils)}
    sys.modules.update(stand_ins)
    try:
        yield
    finally:
        for name, module in stand_ins.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]


def _disable(function: Any = None, *options: Any, **more: Any) -> Any:
    """torch._dynamo.disable, which a function asks for when it is first called."""
    if function is None:
        return lambda later: _disable(later, *options, **more)
    made: list[Callable[..., Any]] = []

    @wraps(function)
    def call(*arguments: Any, **keywords: Any) -> Any:
        if not made:
            made.append(importlib.import_module(COMPILER).disable(function, *options, **more))
        return made[0](*arguments, **keywords)

    return call


def _is_compile_supported(device: str) -> bool:
    supported: bool = importlib.import_module(f"{COMPILER}.utils").is_compile_supported(device)
    return supported
