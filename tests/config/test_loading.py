# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Configurations: YAML files and their bases, overrides, and all issues at once."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from cmpf.config import Config, config_root, files, find_config, get_cfg, resolve, with_overrides
from cmpf.config.files import read_yaml
from cmpf.config.keys import Issue, Origin, as_error
from cmpf.errors import ConfigError

SHIPPED = [path for path in sorted(config_root().rglob("*.yaml")) if path.name != "model_zoo.yaml"]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_without_arguments_the_defaults_come_back():
    assert get_cfg() == Config()


def test_overrides_win_over_the_file_and_the_file_over_its_base(tmp_path):
    write(tmp_path, "base.yaml", "SEED: 1\nNUM_THREADS: 1\nVERSION: 2\n")
    child = write(tmp_path, "child.yaml", "_BASE_: base.yaml\nSEED: 2\nNUM_THREADS: 2\n")
    cfg = get_cfg(child, ["SEED", "3"])
    assert (cfg.SEED, cfg.NUM_THREADS) == (3, 2)


def test_values_from_a_shell_are_read_in_the_type_of_their_key():
    cfg = get_cfg(
        overrides=[
            *("SOLVER.BASE_LR", "1e-3", "SOLVER.STEPS", "(10, 20)", "SOLVER.MAX_ITER", "1e3"),
            *(
                "SOLVER.AMP.ENABLED",
                "false",
                "DATASETS.TEST",
                "shapes_val",
                "MODEL.CMPF.CLIP.PRETRAINED",
                '""',
            ),
            *("OUTPUT_DIR", "2024", "MODEL.MASK_FORMER.CLASS_WEIGHT", "2"),
        ]
    )
    assert cfg.SOLVER.BASE_LR == 1e-3
    assert cfg.SOLVER.STEPS == (10, 20)
    assert cfg.SOLVER.MAX_ITER == 1000
    assert isinstance(cfg.SOLVER.MAX_ITER, int)
    assert cfg.SOLVER.AMP.ENABLED is False
    assert cfg.DATASETS.TEST == ("shapes_val",)
    assert cfg.MODEL.CMPF.CLIP.PRETRAINED == ""
    assert cfg.OUTPUT_DIR == "2024"
    assert isinstance(cfg.MODEL.MASK_FORMER.CLASS_WEIGHT, float)


def test_python_values_work_as_overrides():
    cfg = get_cfg(overrides=["SOLVER.STEPS", [5, 6], "SEED", 7, "DATASETS.TEST", ("a", "b")])
    assert cfg.SOLVER.STEPS == (5, 6)
    assert cfg.SEED == 7
    assert cfg.DATASETS.TEST == ("a", "b")


def test_all_issues_of_all_files_and_overrides_come_in_one_error(tmp_path):
    write(tmp_path, "base.yaml", "SOLVER:\n  BASE_LR: fast\n")
    text = "_BASE_: base.yaml\nMODEL:\n  MASK_FORMR:\n    NHEADS: 8\nSEED: -1\n"
    child = write(tmp_path, "child.yaml", text)
    with pytest.raises(ConfigError) as caught:
        get_cfg(child, ["TEST.ENSEMBLE.ALPHA", "1.5", "SEED"])
    message = str(caught.value)
    assert message.startswith("5 issues: ")
    assert 'base.yaml line 2: SOLVER.BASE_LR: expected a number > 0, got "fast"' in message
    unknown = "child.yaml line 4: MODEL.MASK_FORMR.NHEADS: unknown, did you mean MODEL.MASK_FORMER.NHEADS?"
    assert unknown in message
    assert "child.yaml line 5: SEED: expected a whole number >= 0, below 2^63, got -1" in message
    assert 'override: TEST.ENSEMBLE.ALPHA: expected a number from 0 to 1, got "1.5"' in message
    assert "override: SEED: has no value; overrides are KEY VALUE pairs" in message


def test_a_missing_file_is_reported_together_with_bad_overrides():
    with pytest.raises(ConfigError) as caught:
        get_cfg("no/such.yaml", ["SEEED", "1"])
    assert "no/such.yaml: no such config file" in str(caught.value)
    assert "SEEED: unknown, did you mean SEED?" in str(caught.value)


def test_one_text_in_place_of_a_list_of_overrides_is_refused():
    with pytest.raises(ConfigError, match="must be a list of KEY VALUE pairs"):
        get_cfg(overrides="SEED 1")


def test_a_base_cannot_be_given_as_override():
    with pytest.raises(ConfigError, match="works in files only"):
        get_cfg(overrides=["_BASE_", "x.yaml"])


def test_a_dumped_configuration_reads_back_the_same(tmp_path):
    cfg = get_cfg(overrides=["SOLVER.BASE_LR", "1e-5", "SOLVER.STEPS", "()"])
    assert get_cfg(write(tmp_path, "config.yaml", cfg.dump())) == cfg


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(config_root())))
def test_every_shipped_config_loads(path):
    get_cfg(path)


def test_the_training_config_states_the_published_settings():
    cfg = get_cfg("coco/cmpf/convnext_large_eval_ade20k")
    solver, former = cfg.SOLVER, cfg.MODEL.MASK_FORMER
    assert (solver.IMS_PER_BATCH, solver.MAX_ITER, solver.STEPS) == (16, 368750, (327778, 355092))
    assert (solver.BASE_LR, solver.WEIGHT_DECAY, solver.CLIP_GRADIENTS.CLIP_VALUE) == (1e-4, 0.05, 0.01)
    assert (former.DEC_LAYERS, former.NUM_OBJECT_QUERIES, former.TRAIN_NUM_POINTS) == (10, 250, 12544)
    assert (cfg.MODEL.CMPF.GEOMETRIC_ENSEMBLE_ALPHA, cfg.MODEL.CMPF.GEOMETRIC_ENSEMBLE_BETA) == (0.4, 0.8)


def test_the_five_tiny_configs_differ_by_the_ablated_parts_alone():
    def parts(name: str) -> tuple[bool, ...]:
        cfg = get_cfg(f"shapes/{name}")
        ours = cfg.MODEL.CMPF
        switches = (bool(ours.SAM.NAME), ours.QUERY_INJECTOR.ENABLED, ours.FEATURE_INJECTOR.ENABLED)
        return (*switches, cfg.TEST.ENSEMBLE.ENABLED)

    assert parts("cmpf_tiny") == (True, True, True, True)
    assert parts("no_ensemble") == (True, True, True, False)
    assert parts("query_injector_only") == (True, True, False, False)
    assert parts("feature_injector_only") == (True, False, True, False)
    assert parts("fcclip_tiny") == (False, False, False, False)
    solvers = {str(get_cfg(path).SOLVER) for path in SHIPPED if path.parent.name == "shapes"}
    assert len(solvers) == 1


def test_a_bad_value_does_not_also_trip_the_conditions_it_takes_part_in():
    with pytest.raises(ConfigError) as caught:
        get_cfg(overrides=["INPUT.MIN_SCALE", "big", "INPUT.MAX_SCALE", "0.01"])
    assert str(caught.value).startswith("1 issue")


def test_a_changed_copy_is_checked_and_leaves_the_first_as_it_is():
    cfg = get_cfg("cmpf_tiny", ["SEED", 4])
    changed = with_overrides(cfg, {"MODEL.WEIGHTS": "x.pth", "SOLVER.STEPS": "(1, 2)"})
    assert (changed.MODEL.WEIGHTS, changed.SOLVER.STEPS, changed.SEED) == ("x.pth", (1, 2), 4)
    assert cfg == get_cfg("cmpf_tiny", ["SEED", 4])
    assert with_overrides(changed, {"MODEL.WEIGHTS": "", "SOLVER.STEPS": cfg.SOLVER.STEPS}) == cfg
    with pytest.raises(ConfigError, match=r"2 issues: .*SEEED: unknown.*7 does not divide"):
        with_overrides(cfg, {"SEEED": 1, "MODEL.MASK_FORMER.NHEADS": 7})


def test_each_value_knows_where_it_was_set_last(tmp_path):
    base = write(tmp_path, "base.yaml", "SEED: 1\nNUM_THREADS: 1\nVERSION: 2\n")
    child = write(tmp_path, "child.yaml", "_BASE_: base.yaml\nSEED: 2\nNUM_THREADS: 2\n")
    origins = resolve(child, ["SEED", "3"]).origins
    expected = {"SEED": Origin(), "NUM_THREADS": Origin(child, 3), "VERSION": Origin(base, 3)}
    assert origins == expected


def test_plugins_have_keys_of_their_own(tmp_path):
    text = "MODEL:\n  CMPF:\n    PLUGINS: mine.parts\n    EXTRA:\n      GATE: {START: 0.5, NAMES: [a, b]}\n"
    file = write(tmp_path, "x.yaml", text)
    cfg = get_cfg(file, ["MODEL.CMPF.EXTRA.GATE.START", "1e-4", "MODEL.CMPF.EXTRA.LOSS.ON", "true"])
    extra = cfg.MODEL.CMPF.EXTRA
    assert cfg.MODEL.CMPF.PLUGINS == ("mine.parts",)
    assert (extra.GATE.START, extra.GATE.NAMES, extra.LOSS.ON) == (1e-4, ("a", "b"), True)
    assert get_cfg(write(tmp_path, "again.yaml", cfg.dump())) == cfg
    assert getattr(extra, "ABSENT", 7) == 7
    assert (
        with_overrides(cfg, {"MODEL.CMPF.EXTRA": {"LOSS": {"ON": False}}}).MODEL.CMPF.EXTRA.LOSS.ON is False
    )


def test_texts_of_a_file_stay_texts_in_the_keys_of_plugins(tmp_path):
    file = write(tmp_path, "x.yaml", "MODEL: {CMPF: {EXTRA: {WORD: '3', LIST: ['true', null]}}}\n")
    extra = get_cfg(file).MODEL.CMPF.EXTRA
    assert (extra.WORD, extra.LIST) == ("3", ("true", None))
    assert get_cfg(write(tmp_path, "again.yaml", get_cfg(file).dump())) == get_cfg(file)


@pytest.mark.parametrize("name", ["copy", "_x", "a-b"])
def test_a_key_of_a_plugin_that_cannot_be_read_as_an_attribute_is_refused(name):
    with pytest.raises(ConfigError, match=rf"EXTRA\.{name}: '{name}' cannot be a key"):
        get_cfg(overrides=[f"MODEL.CMPF.EXTRA.{name}", 1])


FILE = Path("/configs/x.yaml")


def test_issues_of_one_file_share_its_name():
    issues = [Issue("A", "bad", Origin(FILE, 3)), Issue("B", "worse", Origin(FILE, 9))]
    assert str(as_error(issues)).endswith("/configs/x.yaml: line 3: A: bad · line 9: B: worse")
    assert str(as_error(issues)).startswith("2 issues in ")


def test_issues_of_several_places_each_name_their_own():
    issues = [Issue("A", "bad", Origin(FILE, 3)), Issue("B", "worse", Origin())]
    assert "x.yaml line 3: A: bad · override: B: worse" in str(as_error(issues))


def test_an_issue_without_place_and_key_is_its_message():
    assert str(as_error([Issue("", "gone", None)])) == "1 issue: gone"


def write_files(folder: Path, name: str, text: str | bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def issues_of(path: Path) -> list[str]:
    return [issue.text(with_file=False) for issue in read_yaml(path)[1]]


def test_settings_come_with_their_lines_bases_first(tmp_path):
    write_files(tmp_path, "base.yaml", "SEED: 1\n")
    settings, issues = read_yaml(
        write_files(tmp_path, "a.yaml", "# note\n_BASE_: base.yaml\nSOLVER:\n  MAX_ITER: 5\n")
    )
    assert issues == []
    assert [(s.key, s.value, s.origin.line) for s in settings] == [("SEED", 1, 1), ("SOLVER.MAX_ITER", 5, 4)]
    assert [s.origin.file.name for s in settings if s.origin.file] == ["base.yaml", "a.yaml"]


def test_a_base_is_looked_for_beside_the_file_that_names_it(tmp_path):
    write_files(tmp_path, "deep/base.yaml", "SEED: 5\n")
    write_files(tmp_path, "deep/middle.yaml", "_BASE_: base.yaml\n")
    assert get_cfg(write_files(tmp_path, "top.yaml", "_BASE_: deep/middle.yaml\n")).SEED == 5


def test_of_several_bases_the_later_wins(tmp_path):
    write_files(tmp_path, "a.yaml", "SEED: 1\nNUM_THREADS: 1\n")
    write_files(tmp_path, "b.yaml", "SEED: 2\n")
    cfg = get_cfg(write_files(tmp_path, "c.yaml", "_BASE_: [a.yaml, b.yaml]\n"))
    assert (cfg.SEED, cfg.NUM_THREADS) == (2, 1)


def test_a_diamond_of_bases_is_no_circle(tmp_path):
    write_files(tmp_path, "root.yaml", "SEED: 4\n")
    write_files(tmp_path, "a.yaml", "_BASE_: root.yaml\n")
    write_files(tmp_path, "b.yaml", "_BASE_: root.yaml\n")
    assert get_cfg(write_files(tmp_path, "c.yaml", "_BASE_: [a.yaml, b.yaml]\n")).SEED == 4


def test_bases_in_a_circle_are_named_in_order(tmp_path):
    write_files(tmp_path, "b.yaml", "_BASE_: a.yaml\n")
    path = write_files(tmp_path, "a.yaml", "_BASE_: b.yaml\n")
    with pytest.raises(ConfigError, match=r"the files go in a circle: .*a\.yaml -> .*b\.yaml -> .*a\.yaml"):
        get_cfg(path)


def test_a_missing_base_is_reported_where_it_is_named(tmp_path):
    path = write_files(tmp_path, "a.yaml", "SEED: 1\n_BASE_: gone.yaml\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: line 2: _BASE_: no such file: .*gone\.yaml"):
        get_cfg(path)


@pytest.mark.parametrize("value", ["3", "''", "[a.yaml, 3]", "{a: b}"])
def test_a_base_that_is_no_file_name_is_refused(tmp_path, value):
    write_files(tmp_path, "a.yaml", "SEED: 1\n")
    with pytest.raises(ConfigError, match="_BASE_"):
        get_cfg(write_files(tmp_path, "c.yaml", f"_BASE_: {value}\n"))


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
    issues = issues_of(write_files(tmp_path, "broken.yaml", text))
    assert len(issues) == 1
    assert message in issues[0]


def test_issues_of_one_file_name_it_once(tmp_path):
    path = write_files(tmp_path, "x.yaml", "SEEED: 1\nVERSON: 2\n")
    with pytest.raises(ConfigError) as caught:
        get_cfg(path)
    assert str(caught.value).count("x.yaml") == 1
    assert str(caught.value).startswith("2 issues in ")


def test_anchors_and_merge_free_yaml_work(tmp_path):
    cfg = get_cfg(write_files(tmp_path, "x.yaml", "DATASETS:\n  TRAIN: &names [a, b]\n  TEST: *names\n"))
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


def test_a_folder_is_no_config_nor_is_an_empty_name(tmp_path):
    for name in (tmp_path, ""):
        with pytest.raises(ConfigError, match="is a folder, expected a YAML file"):
            find_config(name)


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
        get_cfg(write_files(tmp_path, "bomb.yaml", text))
    assert time.process_time() - started < 10


def test_bases_that_multiply_are_refused(tmp_path):
    write_files(tmp_path, "b0.yaml", "SEED: 1\n")
    for n in range(1, 12):
        write_files(tmp_path, f"b{n}.yaml", f"_BASE_: [{', '.join([f'b{n - 1}.yaml'] * 8)}]\n")
    with pytest.raises(ConfigError, match="leads to more than 100 files"):
        get_cfg(tmp_path / "b11.yaml")


def test_ordinary_aliases_and_merged_keys_are_read(tmp_path):
    text = "MODEL:\n  MASK_FORMER: &m {NHEADS: 4}\n  SEM_SEG_HEAD:\n    NORM_GROUPS: 16\nSEED: &s 3\nNUM_THREADS: *s\n"
    cfg = get_cfg(write_files(tmp_path, "a.yaml", text))
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
