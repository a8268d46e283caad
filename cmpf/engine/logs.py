# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The program's log: short on the terminal, complete in the run's folder."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tqdm import tqdm

from cmpf.common import distributed

FILE_ONLY = {"file_only": True}  # as logger.info(..., extra=FILE_ONLY): not for the terminal
LOG_FILE = "log.txt"


class _TerminalHandler(logging.Handler):
    """Prints above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()
        except (OSError, ValueError):
            self.handleError(record)


@contextmanager
def logging_to(folder: Path) -> Iterator[logging.Logger]:
    """Sends the "cmpf" logger to the terminal and to FOLDER/log.txt (appended) while the block lasts.

    Python's warnings, most of which come from dependencies and are nothing that a user can act on, go to the
    file only. Of several processes only the first is heard on the terminal; the others have log_rank1.txt, ...

    Args:
        folder: made if it is not there.
    Yields:
        The "cmpf" logger, at level INFO.
    """
    folder.mkdir(parents=True, exist_ok=True)
    terminal = _TerminalHandler()
    main = distributed.is_main()
    terminal.addFilter(lambda record: main and not getattr(record, "file_only", False))
    terminal.setFormatter(logging.Formatter("[%(asctime)s] %(message)s", "%m/%d %H:%M:%S"))
    file = logging.FileHandler(folder / _log_file(), encoding="utf-8")
    file.setFormatter(logging.Formatter("[%(asctime)s] %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))

    logger, warned = logging.getLogger("cmpf"), logging.getLogger("py.warnings")
    before = (logger.level, logger.propagate, warned.propagate)
    logger.setLevel(logging.INFO)
    logger.propagate = warned.propagate = False
    logger.addHandler(terminal)
    logger.addHandler(file)
    warned.addHandler(file)
    logging.captureWarnings(True)
    try:
        yield logger
    finally:
        logging.captureWarnings(False)
        logger.removeHandler(terminal)
        logger.removeHandler(file)
        warned.removeHandler(file)
        logger.level, logger.propagate, warned.propagate = before
        file.close()


def _log_file() -> str:
    return LOG_FILE if distributed.is_main() else f"log_rank{distributed.rank()}.txt"
