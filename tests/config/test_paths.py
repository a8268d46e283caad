# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Finding shipped configuration files."""

from __future__ import annotations

import pytest

from cmpf.config import config_root, find_config, paths
from cmpf.errors import ConfigError


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
    monkeypatch.setattr(paths, "config_root", lambda: tmp_path)
    with pytest.raises(ConfigError, match="several configs have this name: a/same, b/same"):
        find_config("same")


def test_configs_inside_an_installed_package_come_before_a_folder_beside_it(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "cmpf"
    monkeypatch.setattr(paths, "_PACKAGE", package)
    assert config_root() == tmp_path / "site-packages" / "configs"
    (package / "configs").mkdir(parents=True)
    assert config_root() == package / "configs"
