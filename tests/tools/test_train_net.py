# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def script(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "train_net.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_script_ends_with_the_exit_codes_of_its_command_line(tmp_path: Path) -> None:
    wrong = script("--config-file", "shapes/nowhere", "OUTPUT_DIR", str(tmp_path))
    assert wrong.returncode == 1
    assert wrong.stderr.startswith("error: 1 issue: shapes/nowhere: no such config file")
    assert wrong.stderr.count("\n") == 1
    unknown = script("--unknown")
    assert unknown.returncode == 2
    assert "usage: train_net.py" in unknown.stderr


def test_the_help_text_shows_examples_with_the_scripts_name() -> None:
    shown = script("--help").stdout
    assert "  tools/train_net.py --config-file configs/shapes/cmpf_tiny.yaml --resume\n" in shown
    assert "--eval-only" in shown
