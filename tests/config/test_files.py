# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Finding configuration files, their bases, and everything that can be wrong with them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cmpf.config import config_root, files, find_config, get_cfg
from cmpf.config.files import read_yaml
from cmpf.errors import ConfigError


def write(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def issues_of(path: Path) -> list[str]:
    return [issue.text(with_file=False) for issue in read_yaml(path)[1]]


def test_settings_come_with_their_lines_bases_first(tmp_path):
    write(tmp_path, "base.yaml", "SEED: 1\n")
    settings, issues = read_yaml(
        write(tmp_path, "a.yaml", "# note\n_BASE_: base.yaml\nSOLVER:\n  MAX_ITER: 5\n")
    )
    assert issues == []
    assert [(s.key, s.value, s.origin.line) for s in settings] == [("SEED", 1, 1), ("SOLVER.MAX_ITER", 5, 4)]
    assert [s.origin.file.name for s in settings if s.origin.file] == ["base.yaml", "a.yaml"]


def test_a_base_is_looked_for_beside_the_file_that_names_it(tmp_path):
    write(tmp_path, "deep/base.yaml", "SEED: 5\n")
    write(tmp_path, "deep/middle.yaml", "_BASE_: base.yaml\n")
    assert get_cfg(write(tmp_path, "top.yaml", "_BASE_: deep/middle.yaml\n")).SEED == 5


def test_of_several_bases_the_later_wins(tmp_path):
    write(tmp_path, "a.yaml", "SEED: 1\nNUM_THREADS: 1\n")
    write(tmp_path, "b.yaml", "SEED: 2\n")
    cfg = get_cfg(write(tmp_path, "c.yaml", "_BASE_: [a.yaml, b.yaml]\n"))
    assert (cfg.SEED, cfg.NUM_THREADS) == (2, 1)


def test_a_diamond_of_bases_is_no_circle(tmp_path):
    write(tmp_path, "root.yaml", "SEED: 4\n")
    write(tmp_path, "a.yaml", "_BASE_: root.yaml\n")
    write(tmp_path, "b.yaml", "_BASE_: root.yaml\n")
    assert get_cfg(write(tmp_path, "c.yaml", "_BASE_: [a.yaml, b.yaml]\n")).SEED == 4


def test_bases_in_a_circle_are_named_in_order(tmp_path):
    write(tmp_path, "b.yaml", "_BASE_: a.yaml\n")
    path = write(tmp_path, "a.yaml", "_BASE_: b.yaml\n")
    with pytest.raises(ConfigError, match=r"the files go in a circle: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        get_cfg(path)


def test_a_missing_base_is_reported_where_it_is_named(tmp_path):
    path = write(tmp_path, "a.yaml", "SEED: 1\n_BASE_: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: line 2: _BASE_: no such file: .*gone\.yaml"):
        get_cfg(path)


@pytest.mark.parametrize("value", ["3", "''", "[a.yaml, 3]", "{a: b}"])
def test_a_base_that_is_no_file_name_is_refused(tmp_path, value):
    write(tmp_path, "a.yaml", "SEED: 1\n")
    with pytest.raises(ConfigError, match="_BASE_"):
        get_cfg(write(tmp_path, "c.yaml", f"_BASE_: {value}\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SEED: [1, 2\n", "is not valid YAML"),
        ("SEED: 1\n\tNUM_THREADS: 2\n", "line 2: is not valid YAML"),
        ("", "holds no settings"),
        ("# only a comment\n", "holds no settings"),
        ("- SEED\n- 1\n", "holds no settings"),
        ("just a text\n", "holds no settings"),
        ("SEED: 1\n---\nSEED: 2\n", "is not valid YAML"),
        (b"\xff\xfe\x00\x01", "is not UTF-8 text"),
        (b"SEED: \x00\n", "is not valid YAML"),
        ("SEED: 1\nSEED: 2\n", "line 2: SEED: is written twice in this section"),
        ("SOLVER:\n  ? [a, b]\n  : 1\n", "line 2: SOLVER: a list or mapping cannot be a key"),
        ("SOLVER: &a\n  AMP: *a\n", "line 2: SOLVER.AMP: contains itself"),
        ("DATASETS:\n  TEST: &a [*a]\n", "cannot be read"),
        ("OUTPUT_DIR: !!python/object/apply:os.getcwd []\n", "OUTPUT_DIR: cannot be read"),
        ("OUTPUT_DIR: 2024-13-45\n", "OUTPUT_DIR: cannot be read"),
    ],
)
def test_a_damaged_file_is_a_fault_with_its_place(tmp_path, text, message):
    issues = issues_of(write(tmp_path, "broken.yaml", text))
    assert len(issues) == 1
    assert message in issues[0]


def test_issues_of_one_file_name_it_once(tmp_path):
    path = write(tmp_path, "x.yaml", "SEEED: 1\nVERSON: 2\n")
    with pytest.raises(ConfigError) as caught:
        get_cfg(path)
    assert str(caught.value).count("x.yaml") == 1
    assert str(caught.value).startswith("2 issues in ")


def test_anchors_and_merge_free_yaml_work(tmp_path):
    cfg = get_cfg(write(tmp_path, "x.yaml", "DATASETS:\n  TRAIN: &names [a, b]\n  TEST: *names\n"))
    assert cfg.DATASETS.TEST == ("a", "b")


@pytest.mark.parametrize(
    "name",
    ["cmpf_tiny", "shapes/cmpf_tiny", "shapes/cmpf_tiny.yaml", "configs/shapes/cmpf_tiny.yaml"],
)
def test_a_shipped_config_is_found_from_any_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(name) == config_root() / "shapes" / "cmpf_tiny.yaml"


def test_a_file_of_the_user_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cmpf_tiny").write_text("SEED: 1\n")
    assert find_config("cmpf_tiny") == tmp_path / "cmpf_tiny"


def test_a_misspelt_name_leads_to_the_nearest_ones():
    with pytest.raises(
        ConfigError, match=r"shapes/cmpf_tinny: no such config file; did you mean shapes/cmpf_tiny"
    ):
        find_config("shapes/cmpf_tinny")


def test_a_name_like_nothing_leads_to_the_folder_of_configs():
    with pytest.raises(ConfigError, match="shipped configs are in"):
        find_config("qqqqqqqq")


def test_a_folder_is_no_config(tmp_path):
    with pytest.raises(ConfigError, match="is a folder, expected a YAML file"):
        find_config(tmp_path)


def test_an_empty_name_is_an_error():
    with pytest.raises(ConfigError):
        find_config("")


def test_a_bare_name_in_two_folders_must_be_written_in_full(tmp_path, monkeypatch):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.yaml").write_text("SEED: 1\n")
    monkeypatch.setattr(files, "config_root", lambda: tmp_path)
    with pytest.raises(ConfigError, match="several configs have this name: a/same, b/same"):
        find_config("same")


def test_configs_inside_an_installed_package_come_before_a_folder_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "cmpf"
    monkeypatch.setattr(files, "_PACKAGE", package)
    assert config_root() == tmp_path / "site-packages" / "configs"
    (package / "configs").mkdir(parents=True)
    assert config_root() == package / "configs"


# Files that somebody wrote to stop us.


def bomb(layers: int, *, opening: str, closing: str) -> str:
    """Aliases of aliases: ten times as many values with every line."""
    lines = ["  a0: &a0 " + opening + closing]
    for n in range(1, layers):
        parts = ", ".join([f"*a{n - 1}"] * 10)
        if opening == "{":
            parts = ", ".join(f"K{k}: *a{n - 1}" for k in range(10))
        lines.append(f"  a{n}: &a{n} {opening}{parts}{closing}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "MODEL:\n" + bomb(9, opening="{", closing="}"),
            "more than 30,000 keys and values behind its aliases",
        ),
        (
            "MODEL:\n" + bomb(9, opening="[", closing="]"),
            "more than 30,000 keys and values behind its aliases",
        ),
        ("SEED: " + "[" * 60 + "]" * 60, "nested more than 50 deep"),
        ("SEED: [" + "0," * 30_001 + "]", "more than 30,000 keys and values"),
        ("SEED: '" + "a" * 10_001 + "'", "a value of more than 10,000 letters"),
        ("#" * 2**20 + "\nSEED: 1", "1,048,584 bytes, and up to 1,048,576 are read"),
        ("".join(f"KEY{n}: 1\n" for n in range(10_000)), r"10000 issues .*KEY0: unknown.* · and 9,950 more"),
        ("SEED: !!int abc", "SEED: cannot be read: 'abc' is no int"),
        ("SEED: !!bool abc", "SEED: cannot be read: 'abc' is no bool"),
        ("SEED: !!timestamp abc", "SEED: cannot be read: 'abc' is no timestamp"),
        ("SEED: 2001-99-99", "SEED: cannot be read: '2001-99-99' is no timestamp"),
        ("SEED: " + "9" * 5000, "SEED: cannot be read: '9+' is no int"),
    ],
)
def test_a_file_that_would_take_minutes_or_all_memory_is_refused(tmp_path, text, message):
    started = time.process_time()
    with pytest.raises(ConfigError, match=message):
        get_cfg(write(tmp_path, "bomb.yaml", text))
    assert time.process_time() - started < 10


def test_bases_that_multiply_are_refused(tmp_path):
    write(tmp_path, "b0.yaml", "SEED: 1\n")
    for n in range(1, 12):
        write(tmp_path, f"b{n}.yaml", f"_BASE_: [{', '.join([f'b{n - 1}.yaml'] * 8)}]\n")
    with pytest.raises(ConfigError, match="leads to more than 100 files"):
        get_cfg(tmp_path / "b11.yaml")


def test_ordinary_aliases_and_merged_keys_are_read(tmp_path):
    text = "MODEL:\n  MASK_FORMER: &m {NHEADS: 4}\n  SEM_SEG_HEAD:\n    NORM_GROUPS: 16\nSEED: &s 3\nNUM_THREADS: *s\n"
    cfg = get_cfg(write(tmp_path, "a.yaml", text))
    assert (cfg.SEED, cfg.NUM_THREADS, cfg.MODEL.MASK_FORMER.NHEADS) == (3, 3, 4)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.yaml")
    issues = issues_of(tmp_path / "pipe.yaml")
    assert issues == ["cannot be read: no regular file"]


@pytest.mark.parametrize(
    ("key", "value"),
    [("NUM_THREADS", 100_000), ("MODEL.MASK_FORMER.DEC_LAYERS", 10**6), ("INPUT.IMAGE_SIZE", 10**9)],
)
def test_numbers_beyond_any_machine_are_refused(key, value):
    with pytest.raises(ConfigError, match=f"{key}: expected a whole number .*up to .*got {value}"):
        get_cfg(overrides=[key, value])
