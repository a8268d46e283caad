# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""cmpf config: a configuration with the origin of each value, its keys, their page, and their JSON Schema."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from cmpf.cli import main
from cmpf.config import get_cfg
from cmpf.config.keys import KEYS

ROOT = Path(__file__).resolve().parents[2]


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["config", *words]) == 0
    return capsys.readouterr().out


def test_a_shown_configuration_names_the_origin_of_each_value_and_loads_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yaml").write_text("SEED: 1\nSOLVER:\n  STEPS: [7, 9]\n  MAX_ITER: 10\n")
    (tmp_path / "mine.yaml").write_text(
        "_BASE_: base.yaml\nSEED: 2\nMODEL: {CMPF: {EXTRA: {GATE: {ON: true}}}}\n"
    )
    changes = [
        "SOLVER.MAX_ITER",
        "20",
        "LOG.WANDB_PROJECT",
        "on: 3 # GPUs",
        "MODEL.CMPF.EXTRA.MY",
        "{'A': [1]}",
    ]
    text = printed(capsys, "show", "mine.yaml", *changes)
    origins = {" ".join(line.split()).partition("  # ")[0] for line in text.splitlines()}
    assert {
        "SEED: 2 # mine.yaml line 2",
        "STEPS: [7, 9] # base.yaml line 3",
        "MAX_ITER: 20 # override",
        "ON: true # mine.yaml line 3",
        "A: [1] # override",
        "NUM_THREADS: 0 # default",
    } <= origins
    again = tmp_path / "again.yaml"
    again.write_text(text)
    assert get_cfg(again) == get_cfg("mine.yaml", changes)


def test_issues_of_a_shown_configuration_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "show", "cmpf_tiny", "SEED", "x", "SEEED", "1"]) == 1
    assert capsys.readouterr().err.startswith("cmpf: 2 issues: override: SEED: expected a whole number")


def test_keys_are_found_by_a_part_or_a_pattern(capsys: pytest.CaptureFixture[str]) -> None:
    blocks = printed(capsys, "keys", "injector")
    assert blocks.count("MODEL.CMPF.QUERY_INJECTOR.") == sum(".QUERY_INJECTOR." in name for name in KEYS) > 1
    assert (
        "MODEL.CMPF.QUERY_INJECTOR.LEVEL: 2\n"
        "    int: 0, 1 or 2 (strides 32, 16, 8)\n"
        "    it acts after the decoder layers that use this level\n"
    ) in blocks
    assert printed(capsys, "keys", "*.LEVEL").count("\n    int: ") == 2
    assert main(["config", "keys", "BAS_LR"]) == 1
    assert capsys.readouterr().err == "cmpf: no key is like BAS_LR, did you mean SOLVER.BASE_LR?\n"


def test_all_keys_fit_the_width_of_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    lines = printed(capsys, "keys").splitlines()
    assert max(map(len, lines)) <= 72
    assert [line.partition(":")[0] for line in lines if not line.startswith(" ")] == list(KEYS)


def test_the_page_of_the_documentation_is_what_the_schema_says(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    assert page == printed(capsys, "keys", "--markdown"), (
        "run cmpf config keys --markdown > docs/configuration.md"
    )


def test_the_json_schema_knows_bases_ranges_choices_and_free_keys(capsys: pytest.CaptureFixture[str]) -> None:
    schema = json.loads(printed(capsys, "schema"))
    assert schema["properties"]["_BASE_"]["anyOf"]
    assert schema["additionalProperties"] is False
    definitions = schema["$defs"]
    assert definitions["Tree"]["additionalProperties"] is True
    assert definitions["Amp"]["properties"]["DTYPE"]["enum"] == ["auto", "bf16", "fp16"]
    rate = definitions["Solver"]["properties"]["BASE_LR"]
    assert (rate["exclusiveMinimum"], rate["description"]) == (0, "learning rate after warmup")
    one, many = definitions["Datasets"]["properties"]["TRAIN"]["anyOf"]
    assert (one["type"], many["type"], many["minItems"]) == ("string", "array", 1)
    one, many = definitions["Ensemble"]["properties"]["TASKS"]["anyOf"]
    assert one["enum"] == many["items"]["enum"] == ["semantic", "panoptic", "instance"]
    words, files = definitions["Datasets"]["properties"]["VOCABULARIES"]["anyOf"]
    assert (words["enum"], files["type"]) == (["published", "own"], "object")
    written = yaml.safe_load((ROOT / "configs/shapes/Base-shapes.yaml").read_text(encoding="utf-8"))
    assert set(written) <= set(schema["properties"])


@pytest.mark.parametrize(
    "words", [[], ["shw"], ["show"], ["schema", "x"], ["keys", "a", "b"], ["show", "cmpf_tiny", "--markdown"]]
)
def test_wrong_usage_is_exit_code_2(words: list[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["config", *words])
    assert stop.value.code == 2


def test_showing_a_configuration_needs_no_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; from cmpf.cli import main; main(['config', 'show', 'cmpf_tiny'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert "NHEADS: 4" in done.stdout
