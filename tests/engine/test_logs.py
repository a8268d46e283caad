# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import logging
import subprocess
import warnings
from pathlib import Path

import pytest
import torch

from cmpf.engine.logs import FILE_ONLY, LOG_FILE, environment_report, git_commit, logging_to


def test_messages_go_to_terminal_and_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path / "new" / "folder") as logger:
        logger.info("hello")
        logging.getLogger("cmpf.engine.trainer").warning("from below")
    output = capsys.readouterr().out
    written = (tmp_path / "new" / "folder" / LOG_FILE).read_text()
    for message in ("hello", "from below"):
        assert output.count(message) == written.count(message) == 1
    assert "WARNING from below" in written


def test_file_only_messages_stay_off_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with logging_to(tmp_path) as logger:
        logger.info("quiet", extra=FILE_ONLY)
    assert "quiet" not in capsys.readouterr().out
    assert "quiet" in (tmp_path / LOG_FILE).read_text()


def test_warnings_of_dependencies_go_to_the_file_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        with logging_to(tmp_path):
            warnings.warn("old function", FutureWarning, stacklevel=1)
    captured = capsys.readouterr()
    assert "old function" not in captured.out + captured.err
    assert "old function" in (tmp_path / LOG_FILE).read_text()


def test_a_second_run_appends_and_nothing_stays_installed(tmp_path: Path) -> None:
    logger = logging.getLogger("cmpf")
    before = list(logger.handlers), logger.level, logger.propagate
    for message in ("one", "two"):
        with logging_to(tmp_path):
            logger.info(message)
    assert (list(logger.handlers), logger.level, logger.propagate) == before
    lines = (tmp_path / LOG_FILE).read_text().splitlines()
    assert [line.rsplit(" ", 1)[1] for line in lines] == ["one", "two"]


def test_other_processes_than_the_first_write_a_file_of_their_own_and_are_silent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmpf.common.distributed.rank", lambda: 2)
    with logging_to(tmp_path) as logger:
        logger.warning("hello")
    assert capsys.readouterr().out == ""
    assert "hello" in (tmp_path / "log_rank2.txt").read_text()
    assert not (tmp_path / LOG_FILE).exists()


def test_the_report_names_versions_processor_gpus_and_commit() -> None:
    rows = dict(line.split(maxsplit=1) for line in environment_report().splitlines())
    assert rows["torch"] == torch.__version__
    assert {"python", "system", "processor", "gpus", "numpy", "open_clip_torch", "git"} <= set(rows)


def git(folder: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    done = subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


def test_the_commit_of_a_checkout_is_told_with_its_changes(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-m", "a")
    head = git(tmp_path, "rev-parse", "HEAD")
    assert git_commit(tmp_path) == head
    (tmp_path / "a").write_text("2")
    assert git_commit(tmp_path) == f"{head} + changes"


def test_a_folder_inside_somebody_elses_checkout_has_no_commit(tmp_path: Path) -> None:
    git(tmp_path, "init")
    (tmp_path / "site-packages").mkdir()
    assert git_commit(tmp_path / "site-packages") is None


def test_a_checkout_without_commits_and_no_checkout_have_none(tmp_path: Path) -> None:
    assert git_commit(tmp_path) is None
    git(tmp_path, "init")
    assert git_commit(tmp_path) is None
