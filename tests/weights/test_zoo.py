# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The zoo, and the files of published words."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from cmpf.cli import main
from cmpf.config import Config, get_cfg, with_overrides
from cmpf.data import dataset_names
from cmpf.data.datasets import published
from cmpf.errors import ConfigError, ModelNameError, VocabularyError, WeightsError
from cmpf.weights import zoo_entries
from cmpf.weights.download import cache_folder
from cmpf.weights.vocabularies import fetch_vocabularies, is_available, published_text, vocabulary_path
from cmpf.weights.zoo import published_metrics, zoo_weights
from cmpf.weights.zoo_entries import zoo

ADE = "openvocab_ade20k_panoptic_val"
ENTRY = "big: {config: shapes/cmpf_tiny.yaml, url: 'https://example.org/models/big.safetensors?raw=1'"


def write(folder: Path, text: str) -> Path:
    (folder / "zoo.yaml").write_text(text)
    return folder / "zoo.yaml"


def config(clip: str = "convnext_large_d_320", sam: str = "vit_b") -> Config:
    return get_cfg(None, ["MODEL.CMPF.CLIP.NAME", clip, "MODEL.CMPF.SAM.NAME", sam])


def test_the_zoo_has_the_shipped_model_and_all_published_ones() -> None:
    entries = zoo()
    assert next(iter(entries)) == "cmpf_tiny"
    assert entries["cmpf_tiny"].published == {}
    methods = Counter(entry.method for entry in entries.values() if entry.drive)
    assert methods == {
        "cmpf": 2,
        "fcclip": 6,
        "fcclip_coconut": 2,
        "mask_adapter": 1,
        "maftp": 3,
        "ovrcoat": 1,
    }
    assert (
        len({entry.drive for entry in entries.values()}) == 16
    )  # no id stands twice; the shipped one has none
    for name, entry in entries.items():
        cfg = get_cfg(entry.config, [part for pair in entry.overrides.items() for part in pair])
        assert (cfg.MODEL.CMPF.SAM_BRANCH.FLAT_LEVELS == 3) == (entry.method == "cmpf"), name
        assert bool(cfg.MODEL.CMPF.SAM.NAME) == (entry.method in ("cmpf", "")), name
        assert set(entry.published) <= set(dataset_names())
        assert entry.license


def test_published_figures_stand_under_the_names_that_evaluation_uses() -> None:
    # The two ends of the paper's table; the rest is typed beside them.
    large, small = (zoo()[name].published for name in ("cmpf_convnext_large", "cmpf_r50x64"))
    assert large[ADE] == {"panoptic/PQ": 25.9, "segm/AP": 16.5, "sem_seg/mIoU": 33.83}
    assert small["openvocab_coco_2017_val_panoptic_with_sem_seg"]["sem_seg/mIoU"] == 65.4
    assert large["bdd10k_40_panoptic_val"] == {"panoptic/PQ": 19.3}
    assert large["bdd10k_val_sem_seg"] == {"sem_seg/mIoU": 52.3}
    assert {*large, *small} <= set(dataset_names())
    assert {metric for model in (large, small) for row in model.values() for metric in row} == {
        *("panoptic/PQ", "segm/AP", "segm/APr", "sem_seg/mIoU", "sem_seg/fwIoU")
    }


@pytest.mark.parametrize(
    ("dataset", "without", "with_it"),
    [
        (ADE, 33.83, 34.4),
        ("openvocab_ade20k_full_sem_seg_val", 14.39, 14.8),
        ("openvocab_pascal_ctx459_sem_seg_val", 18.45, 19.7),
        ("openvocab_cityscapes_fine_panoptic_val", 56.8, None),  # nobody has reported it with the ensemble
    ],
)
def test_results_with_the_ensemble_stand_beside_the_figures_with_it(
    dataset: str, without: float, with_it: float | None
) -> None:
    cfg = get_cfg("coco/cmpf/convnext_large_eval_ade20k.yaml")
    assert published_metrics(cfg)[dataset]["sem_seg/mIoU"] == without
    ensembled = published_metrics(with_overrides(cfg, {"TEST.ENSEMBLE.ENABLED": True}))[dataset]
    assert ensembled.get("sem_seg/mIoU") == with_it
    if dataset == ADE:  # the ensemble changes semantic results alone
        assert (ensembled["panoptic/PQ"], ensembled["segm/AP"]) == (25.9, 16.5)


def test_figures_are_found_by_the_encoders_of_a_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, quality in (("convnext_large", 25.9), ("r50x64", 23.1)):
        figures = published_metrics(get_cfg(f"coco/cmpf/{name}_eval_ade20k.yaml"))
        assert figures[ADE]["panoptic/PQ"] == quality
    monkeypatch.setattr(zoo_entries, "ZOO_FILE", str(tmp_path / "zoo.yaml"))
    write(tmp_path, f"{ENTRY}}}")
    assert published_metrics(get_cfg("cmpf_tiny")) == {}
    write(tmp_path, f"{ENTRY}, published: {{{ADE}: {{panoptic/PQ: 7}}}}}}")
    assert published_metrics(get_cfg("cmpf_tiny")) == {ADE: {"panoptic/PQ": 7}}
    assert published_metrics(config()) == {}
    assert published_metrics(config("cmpf_tiny")) == {}  # the other SAM


@pytest.mark.parametrize(
    ("change", "quality"),
    [
        (["QUERY_INJECTOR.ENABLED", False], None),
        (["FEATURE_INJECTOR.ENABLED", False], None),
        (
            [
                "QUERY_INJECTOR.ENABLED",
                False,
                "MODEL.CMPF.FEATURE_INJECTOR.ENABLED",
                False,
                "MODEL.CMPF.SAM.NAME",
                "",
            ],
            26.8,
        ),
    ],
)
def test_figures_are_those_of_the_method_that_a_configuration_has(
    change: list[object], quality: float | None
) -> None:
    figures = published_metrics(get_cfg(None, [f"MODEL.CMPF.{change[0]}", *change[1:]]))
    assert figures.get(ADE, {}).get("panoptic/PQ") == quality
    for config, expected in (("maftp/convnext_large_panoptic", 27.1), ("ovrcoat/convnext_large", 28.6)):
        found = published_metrics(get_cfg(f"coco/{config}_eval_cityscapes.yaml"))
        assert found[ADE]["panoptic/PQ"] == expected


def test_shipped_weights_are_there() -> None:
    assert zoo_weights("cmpf_tiny").name == "cmpf_tiny_decoder.safetensors"


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ModelNameError, match=r"no model 'huge'\. It has cmpf_tiny, cmpf_convnext_large"):
        zoo_weights("huge")


def test_downloaded_weights_lie_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zoo_entries, "ZOO_FILE", str(write(tmp_path, f"{ENTRY}}}")))
    with pytest.raises(WeightsError, match=r"https://example\.org/models/big\.safetensors"):
        zoo_weights("big")  # tests are offline
    place = cache_folder() / "zoo" / "big" / "big.safetensors"
    place.parent.mkdir(parents=True, exist_ok=True)
    save_file({"void_embedding.weight": torch.ones(1)}, place)
    assert zoo_weights("big") == place


@pytest.mark.parametrize(
    ("text", "issue"),
    [
        ("", r"expected NAME: \{config"),
        ("[1]", r"expected NAME: \{config"),
        ("a: 1", "a: expected config and weights, got 1"),
        ("a: {asset: x.safetensors}", "a.config: is missing"),
        ("a: {config: 3, asset: x}", "a.config: expected the path of a config under configs/, got 3"),
        ("a: {config: x.yaml}", "a.drive: is missing: asset, url or drive says where"),
        ("a: {config: x, asset: y, ulr: z}", r"a\.ulr: unknown, did you mean url\?"),
        (f"a: {{config: x, url: here, sha256: {'0' * 63}a}}", "a.url: expected the https:// address of a file"),
        ("a: {config: x, drive: short}", "a.drive: expected the id of a file of Google Drive, got 'short'"),
        ("a: {config: x, asset: y, file: ../w.pth}", "a.file: expected the name of the file, as its authors call it"),
        ("a: {config: x, asset: y, size: 0}", "a.size: expected bytes of the file"),
        ("a: {config: x, asset: y, method: fclip}", "a.method: expected one of cmpf, fcclip, .*, got 'fclip'"),
        ("a: {config: x, asset: y, speed: quick}", "a.speed: expected fast, medium or slow, got 'quick'"),
        ("a: {config: x, asset: y, sha256: 12}", "a.sha256: expected 64 hexadecimal digits, got 12"),
        ("a: {config: x, asset: y, overrides: [SEED]}", r"a\.overrides: expected KEY: VALUE pairs"),
        ("a: {config: x, asset: y, published: 3}", "a.published: expected dataset"),
        ("a: {config: x, asset: y, published: {d: 3}}", "a.published.d: expected task/metric: percent, got 3"),
        ("a: {config: x, asset: y, published: {d: {PQ: 3}}}", "a.published.d.PQ: expected task/metric"),
        ("a: {config: x, asset: y, published: {d: {p/PQ: '3'}}}", "d.p/PQ: expected task/metric: 0 to 100, got '3'"),
        ("a: {config: x, asset: y, published: {d: {p/PQ: 101}}}", "got 101"),
        ("a: {config: x, asset: y, published: {d: {p/PQ: true}}}", "got True"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_refused_by_key(tmp_path: Path, text: str, issue: str) -> None:
    with pytest.raises(ConfigError, match=rf"1 issue in .*zoo\.yaml: .*{issue}"):
        zoo(write(tmp_path, text))


def test_all_issues_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, "a: {config: 1, asset: 2}\nb: {asset: 3, color: red}")
    with pytest.raises(
        ConfigError, match=r"5 issues in .*a\.config.*a\.asset.*b\.config.*b\.asset.*b\.color"
    ):
        zoo(path)


@pytest.mark.parametrize("text", ["a: {config: x", "a: !!python/object:os.system {}"])
def test_a_file_that_is_no_plain_yaml_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"model zoo .*zoo\.yaml cannot be read"):
        zoo(write(tmp_path, text))
    with pytest.raises(ConfigError, match=r"cannot be read: .*No such file"):
        zoo(tmp_path / "absent.yaml")


CONTENT = {
    "coco_panoptic": b"0:invalid_class_id\n1:person,child\n2:car\n",
    "pascal_voc_21": b"1:background\n2:plane\n",
}


class Server(ThreadingHTTPServer):
    """Serves CONTENT as the published addresses have it; `asked` are the paths."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = {f"/words/{key}_with_prompt_eng.txt": text for key, text in CONTENT.items()}
        self.asked: list[str] = []


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        text = self.server.content.get(self.path)
        self.send_response(404 if text is None else 200)
        self.send_header("Content-Length", str(len(text or b"")))
        self.end_headers()
        self.wfile.write(text or b"")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server of two published files, an empty cache folder, and the network allowed."""
    server = Server()
    facts: dict[str, Any] = {
        "address": f"http://127.0.0.1:{server.server_port}/words/{{file}}_with_prompt_eng.txt",
        "sha256": {key: hashlib.sha256(text).hexdigest() for key, text in CONTENT.items()},
        "vocabularies": json.loads(published.FACTS.read_text())["vocabularies"],
    }
    monkeypatch.setattr(published, "_facts", lambda: facts)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("CMPF_CACHE", str(tmp_path / "cache"))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_all_files_arrive_whole_and_are_not_asked_for_again(server: Server) -> None:
    places = fetch_vocabularies()
    assert places == [vocabulary_path(key) for key in CONTENT]
    assert [path.read_bytes() for path in places] == list(CONTENT.values())
    assert published_text("pascal_voc_21") == "1:background\n2:plane\n"
    fetch_vocabularies()
    assert len(server.asked) == 2


def test_wrong_bytes_are_not_kept(server: Server) -> None:
    server.content["/words/pascal_voc_21_with_prompt_eng.txt"] += b"3:more\n"
    with pytest.raises(WeightsError, match=r"published words pascal_voc_21.* has SHA-256 .*, expected"):
        fetch_vocabularies()
    assert is_available("coco_panoptic")
    left = vocabulary_path("pascal_voc_21").parent.glob("pascal*")
    assert [path.name for path in left if path.suffix != ".lock"] == []


def test_a_file_that_is_another_one_is_fetched_anew(server: Server) -> None:
    path = vocabulary_path("coco_panoptic")
    path.parent.mkdir(parents=True)
    path.write_bytes(b"1:my own words\n")
    with pytest.raises(VocabularyError, match=r"not the published file, .*--fetch"):
        published_text("coco_panoptic")
    fetch_vocabularies()
    assert path.read_bytes() == CONTENT["coco_panoptic"]


def test_offline_says_where_to_put_what(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = vocabulary_path("coco_panoptic")
    with pytest.raises(WeightsError, match=rf"save http://.*coco_panoptic_with_prompt_eng\.txt as {path}"):
        fetch_vocabularies()
    with pytest.raises(
        VocabularyError, match=rf"not on this machine\. Get .*--fetch or save http://.* as {path}"
    ):
        published_text("coco_panoptic")
    assert server.asked == []


def test_the_command_fetches_and_lists(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["datasets", "vocabularies"]) == 0
    assert "2 missing; download them with: cmpf datasets vocabularies --fetch" in capsys.readouterr().out
    assert main(["datasets", "vocabularies", "--fetch", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["on_disk"], row["path"]) for row in rows] == [
        (key, "yes", str(vocabulary_path(key))) for key in CONTENT
    ]
    server.content.clear()
    vocabulary_path("coco_panoptic").unlink()
    assert main(["datasets", "vocabularies", "--fetch"]) == 1
    assert "coco_panoptic is not on this machine and cannot be downloaded" in capsys.readouterr().err
