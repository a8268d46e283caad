# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Shared by all commands: common options, argument types, exit codes, error messages, and loading a model."""

from __future__ import annotations

import argparse
import gc
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from cmpf.cli.deferred_import import import_libraries
from cmpf.common.cpu import gc_disabled, keep_freed_memory, limit_spinning
from cmpf.errors import CMPFError

if TYPE_CHECKING:
    from cmpf.predictor import Predictor


Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
DONE, FAILED = 0, 1  # exit codes
TINY = "cmpf_tiny"  # default model; it is part of the package
NATIVE, DETECTRON2 = ENGINES = ("native", "detectron2")  # --engine: which training and evaluation loop


def run_command(arguments: argparse.Namespace, *, prefix: str) -> int:
    """Calls `arguments.run(arguments)` and prints an error as one line.

    Args:
        arguments: parsed arguments with `run`, which returns an exit code, and `debug`, which lets exceptions through.
        prefix: start of an error line.
    Returns:
        The exit code of `run`; 1 after an error, Ctrl-C or a closed pipe (`cmpf datasets | head`).
    """
    limit_spinning()
    # Pillow's warning; images that are too large raise an error of CMPF.
    warnings.filterwarnings("ignore", "Image size .* could be decompression bomb")
    try:
        code = int(arguments.run(arguments))
        sys.stdout.flush()  # raises BrokenPipeError here rather than at exit
        return code
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
    except BrokenPipeError:
        # Python flushes stdout again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as error:
        if arguments.debug:
            raise
        print(f"{prefix}: {_one_line(error)}", file=sys.stderr)
    finally:
        gc.unfreeze()  # objects frozen by `gc_disabled`
    return FAILED


def _one_line(error: Exception) -> str:
    """The message of an error, which is CMPF's own, that of a file, or unexpected."""
    if isinstance(error, CMPFError):
        text = str(error)
    elif isinstance(error, OSError) and error.filename and error.strerror:
        text = f"{error.filename2 or error.filename}: {error.strerror} (--debug shows where)"
    else:
        text = f"{type(error).__name__}: {error} (--debug shows where)"
    return " ".join(part.strip() for part in text.splitlines())


def run_script(
    add_parser: Callable[[Commands], None], command: str, argv: Sequence[str] | None = None
) -> int:
    """Runs one command line of a script in tools/ that is an alias of `cmpf COMMAND`."""
    return run_command(command_parser(add_parser, command).parse_args(argv), prefix="error")


def add_command(
    commands: Commands, name: str, *, help: str, description: str, examples: str, usage: str | None = None
) -> argparse.ArgumentParser:
    """Adds the parser of a command; the caller adds its options and sets `run` as a default.

    Args:
        help: its line in the help text of `cmpf`.
        description: start of its own help text.
        examples: end of its help text, printed verbatim.
        usage: usage line; None = generated from the options.
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
    """Adds --debug, which `run_command` reads."""
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")


def add_model(container: argparse._ActionsContainer, *, default: str | None = TINY) -> None:
    """Adds --model, which `load_model` reads."""
    container.add_argument(
        "--model",
        default=default,
        metavar="NAME",
        help="model zoo name, config file, model folder or Hub repository"
        + (f" [{default}]" if default else ""),
    )


def add_weights(container: argparse._ActionsContainer) -> None:
    """Adds --weights, which `load_model` reads."""
    container.add_argument(
        "--weights", metavar="FILE", help="trained weights to load instead of the model's own"
    )


def add_device(container: argparse._ActionsContainer) -> None:
    """Adds --device."""
    container.add_argument("--device", help="cpu, cuda, cuda:1, xpu or mps [CUDA if available, else CPU]")


def add_num_gpus(container: argparse._ActionsContainer) -> None:
    """Adds --num-gpus, which cmpf.cli.processes.check_gpus checks."""
    container.add_argument(
        "--num-gpus",
        type=not_negative,
        metavar="N",
        help="number of GPUs to use on this machine, one process per GPU; 0 = CPU [MODEL.DEVICE]",
    )


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Adds the other options that `load_model` reads."""
    add_plugin(parser)
    add_allow_unused(parser)
    # Not positional, because some commands already have positional arguments.
    parser.add_argument(
        "--opts",
        nargs="+",
        default=[],
        metavar="KEY VALUE",
        help="override configuration keys, for example TEST.ENSEMBLE.ENABLED True",
    )


def load_model(
    arguments: argparse.Namespace, *, device: str | None, overrides: Sequence[Any] = ()
) -> Predictor:
    """Loads the model of a command line, and sets the number of threads of the process to NUM_THREADS.

    Args:
        arguments: with the options of add_model, add_weights and add_model_options.
        device: see cmpf.load.
        overrides: keys and values in turn; they override --opts.
    Raises:
        CMPFError: see cmpf.load.
    """
    keep_freed_memory()
    with gc_disabled():
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
    """Adds --allow-unused-weights."""
    parser.add_argument(
        "--allow-unused-weights",
        action="store_true",
        help="ignore weights in the file that the model does not have",
    )


def add_plugin(parser: argparse.ArgumentParser) -> None:
    """Adds --plugin."""
    parser.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="MODULE",
        help="module or .py file with custom components to import, in addition to MODEL.CMPF.PLUGINS; can be repeated",
    )


def not_negative(text: str) -> int:
    """Argument type: an integer >= 0."""
    return _integer(text, minimum=0)


def positive(text: str) -> int:
    """Argument type: an integer >= 1."""
    return _integer(text, minimum=1)


def _integer(text: str, *, minimum: int) -> int:
    if not text.isdecimal() or int(text) < minimum:
        raise argparse.ArgumentTypeError(f"expected a whole number from {minimum}, got {text}")
    return int(text)


def fraction(text: str) -> float:
    """Argument type: a number in [0, 1]."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text}")
    return value


def shard(text: str) -> tuple[int, int]:
    """Argument type: "I/N", shard I (from 0) of N."""
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 0 to N - 1, such as 0/8, got {text}")
    return int(match[1]), int(match[2])
