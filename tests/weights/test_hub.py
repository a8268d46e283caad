# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import yaml
from helpers.tiny_model import tiny_config
from huggingface_hub import constants

from cmpf.errors import ConfigError, ModelNameError, PluginError, WeightsError
from cmpf.weights.hub import FOLDER_CONFIG, FOLDER_DATASET, FOLDER_WEIGHTS, HUB_FILES, find_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def model_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / FOLDER_CONFIG).write_text(tiny_config("no_ensemble").dump())
    (folder / FOLDER_WEIGHTS).touch()
    return folder


def cached_repository(cache: Path, *, repository: str) -> Path:
    """The Hub's cache after a download of a repository."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    return model_folder(root / "snapshots" / COMMIT)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def test_a_zoo_name_goes_before_a_folder_of_this_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model_folder(tmp_path / "cmpf_tiny")
    monkeypatch.chdir(tmp_path)
    config, overrides, weights = find_model("cmpf_tiny", need_weights=True)
    assert (config.name, overrides) == ("cmpf_tiny.yaml", [])
    assert weights is not None
    assert weights.name == "cmpf_tiny_decoder.safetensors"


def test_a_folder_has_its_config_and_weights(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "run")
    expected = (folder / FOLDER_CONFIG, [], folder / FOLDER_WEIGHTS)
    assert find_model(str(folder), need_weights=True) == expected
    (folder / FOLDER_WEIGHTS).unlink()
    assert find_model(str(folder), need_weights=False) == (folder / FOLDER_CONFIG, [], None)


def test_a_folder_brings_the_words_of_a_dataset_of_its_own(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "run")
    (folder / FOLDER_DATASET).touch()
    _, overrides, _ = find_model(str(folder), need_weights=True)
    assert overrides == ["DATASETS.TRAIN", [f"file:{folder / FOLDER_DATASET}"]]


def test_a_repository_that_was_downloaded_needs_no_network(hub_cache: Path) -> None:
    folder = cached_repository(hub_cache, repository="some-one/my.model")
    for name in ("some-one/my.model", f"some-one/my.model@{COMMIT}"):
        config, _, weights = find_model(name, need_weights=True)
        assert (config, weights) == (folder / FOLDER_CONFIG, folder / FOLDER_WEIGHTS)


def test_only_the_files_of_a_model_are_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, calls = model_folder(tmp_path / "run"), []

    def download(repository: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        calls.append((repository, revision, allow_patterns))
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert find_model("user/repo@v1.0", need_weights=True)[2] == folder / FOLDER_WEIGHTS
    assert calls == [("user/repo", "v1.0", list(HUB_FILES))]
    assert not any(name.endswith((".py", ".bin", ".pth", ".pt")) for name in HUB_FILES)


def test_a_repository_without_network_says_what_to_do(hub_cache: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        find_model("nobody/nothing", need_weights=True)
    for part in ("https://huggingface.co/nobody/nothing", "HF_HUB_OFFLINE is set", "copy config.yaml and"):
        assert part in str(caught.value)


def test_a_repository_of_something_else_is_named(hub_cache: Path) -> None:
    (cached_repository(hub_cache, repository="user/repo") / FOLDER_CONFIG).unlink()
    with pytest.raises(
        ModelNameError, match=r"huggingface\.co/user/repo holds no config\.yaml; is it a CMPF"
    ):
        find_model("user/repo", need_weights=True)


@pytest.mark.parametrize("name", ["-bad-/x--y", "user/..", "a..b/c"])
def test_impossible_repositories_are_refused(hub_cache: Path, name: str) -> None:
    with pytest.raises((ModelNameError, WeightsError), match="neither a folder here nor a repository"):
        find_model(name, need_weights=True)


@pytest.mark.parametrize("name", ["cmpf_tny", "a/b/c", "", "user/repo@"])
def test_other_names_list_what_a_model_may_be(name: str) -> None:
    with pytest.raises(ModelNameError, match=r"is unknown.*\.yaml config.*a folder with.*USER/REPOSITORY"):
        find_model(name, need_weights=True)


# What a model of somebody else may not decide.


def changed(folder: Path, key: str, value: object) -> None:
    """Writes one key of the configuration in a model's folder."""
    content = yaml.safe_load((folder / FOLDER_CONFIG).read_text())
    *sections, last = key.split(".")
    part = content
    for section in sections:
        part = part[section]
    part[last] = value
    (folder / FOLDER_CONFIG).write_text(yaml.safe_dump(content))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.CMPF.CLIP.PRETRAINED", "/home/you/clip.safetensors"),
        ("MODEL.CMPF.SAM.CHECKPOINT", "../sam.pth"),
        ("TEST.ENSEMBLE.SAM_CHECKPOINT", "~/sam.pth"),
        ("TEST.ENSEMBLE.CACHE_DIR", "masks"),
        ("DATASETS.TRAIN", ["file:/etc/passwd"]),
        ("DATASETS.TEST", ["shapes_val", "C:\\secret.yaml"]),
    ],
)
@pytest.mark.parametrize("hub", [True, False])
def test_a_model_of_somebody_else_names_no_file_of_this_machine(
    hub_cache: Path, tmp_path: Path, hub: bool, key: str, value: object
) -> None:
    folder = (
        cached_repository(hub_cache, repository="user/repo") if hub else model_folder(tmp_path / "theirs")
    )
    changed(folder, key, value)
    with pytest.raises(
        ConfigError, match=f"may not name files of this machine, but has {key} .*--config-file"
    ):
        find_model("user/repo" if hub else str(folder), need_weights=True)
    changed(folder, "OUTPUT_DIR", str(folder))  # as a training writes it, that went into this very folder
    assert find_model("user/repo" if hub else str(folder), need_weights=True)[0] == folder / FOLDER_CONFIG


def test_a_bare_name_that_is_a_file_here_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = model_folder(tmp_path / "theirs")
    changed(folder, "MODEL.CMPF.CLIP.PRETRAINED", "secret")
    find_model(str(folder), need_weights=True)  # a tag, which CLIP knows or not
    (tmp_path / "secret").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"CLIP\.PRETRAINED secret"):
        find_model(str(folder), need_weights=True)


def test_a_model_of_somebody_else_has_no_base_and_its_words_lie_beside_it(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "theirs")
    (folder / FOLDER_DATASET).write_text("images: ../..\nvocabulary: /etc/passwd\nannotations: here.json\n")
    message = rf"images \.\./\.\. in {FOLDER_DATASET}, vocabulary /etc/passwd in {FOLDER_DATASET}\."
    with pytest.raises(ConfigError, match=message):
        find_model(str(folder), need_weights=True)
    with (folder / FOLDER_CONFIG).open("a") as file:
        file.write("_BASE_: /etc/hostname\n")
    with pytest.raises(ConfigError, match="_BASE_: a model's configuration stands alone"):
        find_model(str(folder), need_weights=True)


@pytest.mark.parametrize("plugin", ["evil", "./evil.py"])
def test_a_folder_brings_no_code_even_if_a_training_wrote_it(tmp_path: Path, plugin: str) -> None:
    folder = model_folder(tmp_path / "theirs")
    changed(folder, "OUTPUT_DIR", str(folder))
    changed(folder, "MODEL.CMPF.PLUGINS", [plugin])
    with pytest.raises(PluginError, match=f"needs the plug-in {plugin}: code, .*--plugin {plugin}"):
        find_model(str(folder), need_weights=True)
    assert find_model(str(folder), need_weights=True, plugins=["elsewhere/evil.py"])[2] is not None
