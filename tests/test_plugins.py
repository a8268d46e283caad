# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Parts of the user's own: the registry, modules that fill it, and the example of GETTING_STARTED.md end to end."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from helpers.documents import blocks, command_lines
from helpers.own_dataset import copy_own_dataset
from helpers.tiny_model import random_image, tiny_config, tiny_model

import cmpf
import cmpf.data.datasets.custom  # has the readers of own datasets registered
from cmpf import registry, weights
from cmpf.config import Config, get_cfg
from cmpf.data import get_dataset
from cmpf.data.datasets.validate import report_of
from cmpf.encoders.clip_factory import build_clip
from cmpf.encoders.sam import build_sam
from cmpf.errors import ConfigError, DatasetError, PluginError, WeightsError
from cmpf.factory import build_model, load_predictor
from cmpf.factory.evaluation import build_evaluators
from cmpf.factory.training import build_checkpointer, build_train_mapper
from cmpf.inference import geometric_ensemble
from cmpf.modeling.injectors import FeatureInjector, QueryInjector
from cmpf.modeling.pixel_decoder import PixelDecoder
from cmpf.registry import SLOTS, find, import_plugins, merge_plugins, plugin_files, register, registered

ROOT = Path(__file__).resolve().parent.parent
EXAMPLE = re.search(
    r"^## \d+ Your own parts\n.*", (ROOT / "GETTING_STARTED.md").read_text("utf-8"), re.M | re.S
)
assert EXAMPLE
BLOCKS = blocks("GETTING_STARTED.md", EXAMPLE[0])
FILE, COMMANDS, LOADING = BLOCKS
# In place of a training of minutes.
SHORT = {"60": "2", "90": "3"}
QUICK = ("SOLVER.IMS_PER_BATCH", "2", "INPUT.IMAGE_SIZE", "128", "NUM_THREADS", "1", "MODEL.DEVICE", "cpu")
QUICK += ("TEST.ENSEMBLE.POINTS_PER_SIDE", "2")


@pytest.fixture(autouse=True)
def _registry_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test registers or imports is forgotten after it."""
    modules, path = set(sys.modules), list(sys.path)
    monkeypatch.setattr(registry, "_parts", {slot: dict(names) for slot, names in registry._parts.items()})
    yield
    for name in set(sys.modules) - modules:
        if name.startswith("my_"):
            del sys.modules[name]
    sys.path[:] = path


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


REGISTERS = """
import cmpf
import cmpf.data.datasets.custom  # has the readers of own datasets registered

@cmpf.register("augmentation", "mine")
def mine(*, settings, size_divisibility):
    return None
"""


def shipped(*overrides: object) -> Config:
    """The tiny model with the encoders that CMPF ships, which weights are bound to."""
    return get_cfg("no_ensemble", ["MODEL.DEVICE", "cpu", *overrides])


# The registry.


def test_a_part_is_found_under_its_name_and_comes_back_as_it_was() -> None:
    part = register("query_injector", "mine")(QueryInjector)
    assert part is QueryInjector
    assert find("query_injector", "mine") is QueryInjector
    assert "mine" in registered("query_injector")


def test_an_unknown_name_names_the_nearest_and_all() -> None:
    with pytest.raises(ConfigError) as error:
        tiny_model(overrides=["MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "deformabel"])
    message = str(error.value)
    assert "MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME: pixel_decoder 'deformabel' is unknown" in message
    assert "did you mean deformable?" in message
    assert "Registered: deformable" in message
    assert "--plugin" in message


def test_an_unknown_slot_lists_the_slots() -> None:
    with pytest.raises(PluginError, match=r"did you mean query_injector\? Slots: clip, sam, pixel_decoder"):
        register("query_injectors", "mine")


def test_a_name_that_is_registered_twice_names_both_places() -> None:
    register("criterion", "mine")(dict)
    with pytest.raises(PluginError) as error:
        register("criterion", "mine")(dict)
    places = re.findall(rf"{re.escape(__file__)}:(\d+)", str(error.value))
    assert len(places) == 2
    assert int(places[1]) - int(places[0]) == 2


def test_a_module_that_is_run_again_replaces_its_own_part(tmp_path: Path) -> None:
    code = compile(REGISTERS, str(tmp_path / "my_cell.py"), "exec")
    for _ in range(2):
        space: dict[str, Any] = {"__name__": "my_cell"}
        exec(code, space)
        assert find("augmentation", "mine") is space["mine"]


def test_a_part_that_cannot_be_called_as_its_slot_says_is_refused_with_the_arguments() -> None:
    @register("query_injector", "mine")
    def mine(*, projection: torch.nn.Module, width: int) -> None: ...

    with pytest.raises(PluginError) as error:
        tiny_model(overrides=["MODEL.CMPF.QUERY_INJECTOR.NAME", "mine"])
    assert "missing a required argument: 'width'" in str(error.value)
    assert "called with projection, in_channels, dim" in str(error.value)
    assert f"{__file__}:" in str(error.value)


@pytest.mark.parametrize(("part", "issue"), [(dict, "no signature found"), (3, "is not a callable object")])
def test_a_part_without_a_signature_is_refused(part: Any, issue: str) -> None:
    register("query_injector", "mine")(part)
    with pytest.raises(PluginError, match=rf"^query_injector 'mine' \(.*: .*{issue}.*called with projection"):
        tiny_model(overrides=["MODEL.CMPF.QUERY_INJECTOR.NAME", "mine"])


def test_a_part_that_forgets_to_return_is_not_left_out_silently() -> None:
    @register("query_injector", "mine")
    def mine(**arguments: Any) -> None: ...

    with pytest.raises(
        PluginError, match=rf"query_injector 'mine' \({re.escape(__file__)}:\d+\) returned None"
    ):
        tiny_model(overrides=["MODEL.CMPF.QUERY_INJECTOR.NAME", "mine"])


def test_a_key_of_a_plugin_that_is_not_set_is_named() -> None:
    @register("query_injector", "mine")
    def mine(*, extra: Any, **arguments: Any) -> QueryInjector:
        assert not hasattr(extra, "OTHER")
        return extra.GATE.START

    mine_with = ["MODEL.CMPF.QUERY_INJECTOR.NAME", "mine", "MODEL.CMPF.EXTRA.GATE.END", 1]
    with pytest.raises(
        ConfigError, match=r"a key START that is not set; set are: END\. Set it in MODEL\.CMPF\.EXTRA"
    ):
        tiny_model(overrides=mine_with)


def test_every_slot_has_a_signature_and_a_section_of_the_page() -> None:
    page = (ROOT / "docs/plugins.md").read_text(encoding="utf-8")
    for slot, key in SLOTS.items():
        assert f"`{slot}`" in page
        assert key.partition(" ")[0] in page
    # CMPF's own part of each slot, which a user's is called like.
    own = {slot: find(slot, registered(slot)[0]) for slot in SLOTS if slot not in ("clip", "sam")}
    for slot, like in {**own, "clip": build_clip, "sam": build_sam}.items():
        (row,) = re.findall(rf"^\| `{slot}` .*", page, re.M)
        named = [p.name for p in inspect.signature(like).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert "what `" in row or [name for name in named if f"`{name}`" not in row] == [], slot


# Every slot, filled by a part of the test's own.


def test_a_pixel_decoder_gets_the_extra_keys_and_is_what_runs() -> None:
    seen: list[float] = []

    @register("pixel_decoder", "mine")
    def mine(*, extra: Any, **arguments: Any) -> PixelDecoder:
        seen.append(extra.MY.WEIGHT)
        return PixelDecoder(**arguments)

    own = tiny_model(
        overrides=["MODEL.SEM_SEG_HEAD.PIXEL_DECODER_NAME", "mine", "MODEL.CMPF.EXTRA.MY.WEIGHT", 2.5]
    )
    assert seen == [2.5]
    sample = {"image": random_image()}
    with torch.no_grad():
        assert torch.equal(own.infer([sample])[0]["sem_seg"], tiny_model().infer([sample])[0]["sem_seg"])


def test_a_feature_injector_runs_in_the_layers_of_its_level() -> None:
    class Mine(FeatureInjector):
        calls = 0

        def forward(self, *tokens: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            Mine.calls += 1
            return super().forward(*tokens)

    register("feature_injector", "mine")(Mine)
    tiny_model(overrides=["MODEL.CMPF.FEATURE_INJECTOR.NAME", "mine"]).infer([{"image": random_image()}])
    assert Mine.calls == 2  # 6 decoder layers, of which two use level 0


def test_a_class_ensemble_decides_the_classes() -> None:
    @register("class_ensemble", "decoder_only")
    def decoder_only(decoder: torch.Tensor, clip: torch.Tensor, seen: torch.Tensor, **options: Any) -> Any:
        return geometric_ensemble(decoder, clip, seen, **(options | {"alpha": 0.0, "beta": 0.0}))

    sample = {"image": random_image()}
    scores = ["MODEL.MASK_FORMER.TEST.SEMANTIC_OUTPUT", "scores"]
    own = tiny_model(overrides=[*scores, "MODEL.CMPF.CLASS_ENSEMBLE_NAME", "decoder_only"]).infer([sample])
    zero = ["MODEL.CMPF.GEOMETRIC_ENSEMBLE_ALPHA", 0, "MODEL.CMPF.GEOMETRIC_ENSEMBLE_BETA", 0]
    plain, fused = (tiny_model(overrides=[*scores, *keys]).infer([sample]) for keys in (zero, []))
    assert torch.equal(own[0]["sem_seg"], plain[0]["sem_seg"])
    assert not torch.equal(own[0]["sem_seg"], fused[0]["sem_seg"])


def test_a_mask_ensemble_decides_the_votes_of_sams_masks() -> None:
    asked: list[tuple[int, float]] = []

    @register("mask_ensemble", "silent")
    def silent(probs: Any, sam_probs: Any, seen: Any, *, alpha: float, score_threshold: float) -> Any:
        asked.append((len(sam_probs), alpha))
        return probs, torch.zeros(0, dtype=torch.int64)

    sample = {"image": random_image(), "sam_masks": torch.ones(3, 64, 96)}
    own = tiny_model(overrides=["MODEL.CMPF.MASK_ENSEMBLE_NAME", "silent"]).infer([sample])
    assert asked == [(3, 0.2)]
    plain = tiny_model("no_ensemble").infer([sample])
    assert torch.equal(own[0]["sem_seg"], plain[0]["sem_seg"])


@pytest.mark.parametrize(("slot", "key"), [("clip", "CLIP"), ("sam", "SAM")])
def test_an_encoder_of_a_registered_name_is_built_by_its_part(slot: str, key: str) -> None:
    class ReachedError(Exception):
        pass

    @register(slot, "my_encoder")
    def mine(*, name: str, **source: str) -> Any:
        raise ReachedError(name, sorted(source))

    with pytest.raises(ReachedError) as error:
        tiny_model(overrides=[f"MODEL.CMPF.{key}.NAME", "my_encoder"])
    assert error.value.args == ("my_encoder", ["pretrained"] if slot == "clip" else ["checkpoint"])
    with pytest.raises(cmpf.errors.ModelNameError, match=r"Registered by plug-ins: (\S+, )*my_encoder$"):
        tiny_model(overrides=[f"MODEL.CMPF.{key}.NAME", "my_encodre"])


def test_augmentations_are_those_that_are_named_in_their_order(tmp_path: Path) -> None:
    @register("augmentation", "darker")
    def darker(*, settings: Any, size_divisibility: int) -> Callable[..., Any]:
        assert (settings.IMAGE_SIZE, size_divisibility) == (64, 32)
        return lambda labeled, rng: type(labeled)(**(vars(labeled) | {"image": labeled.image // 4}))

    dataset = get_dataset(f"file:{copy_own_dataset(tmp_path) / 'fruit_train.yaml'}")
    plain, own = (
        build_train_mapper(
            tiny_config(overrides=["INPUT.IMAGE_SIZE", 64, "INPUT.AUGMENTATIONS", names]), dataset
        )(dataset.samples[0], np.random.default_rng(0))
        for names in (["random_flip", "large_scale_jitter"], ["random_flip", "darker", "large_scale_jitter"])
    )
    assert plain["image"].shape == own["image"].shape == (3, 64, 64)
    inside = plain["image"] != 128  # the padding is not darker
    assert own["image"][inside].float().mean() < 0.4 * plain["image"][inside].float().mean()
    by_kind = build_train_mapper(tiny_config(overrides=["INPUT.IMAGE_SIZE", 64]), dataset)
    assert torch.equal(by_kind(dataset.samples[0], np.random.default_rng(0))["image"], plain["image"])


def test_an_evaluator_of_ones_own_is_asked_beside_those_of_the_dataset(tmp_path: Path) -> None:
    asked: list[Any] = []

    @register("evaluator", "count")
    def count(*, dataset: Any, seen: Any, tasks: frozenset[str]) -> str:
        asked.append((dataset.name, len(seen), sorted(tasks)))
        return "counter"

    dataset = get_dataset(f"file:{copy_own_dataset(tmp_path) / 'fruit_val.yaml'}")
    cfg = tiny_config(overrides=["TEST.EVALUATORS", "count", "MODEL.MASK_FORMER.TEST.MASK_RECALL", False])
    found = build_evaluators(cfg, tiny_model(), dataset)
    assert [type(evaluator).__name__ for evaluator in found] == [
        "PanopticEvaluator", "InstanceEvaluator", "SemanticEvaluator", "str",
    ]  # fmt: skip
    assert asked == [("fruit_val", dataset.vocabulary.num_classes, ["instance", "panoptic", "semantic"])]


def test_a_dataset_file_names_a_reader_of_ones_own(tmp_path: Path) -> None:
    file = write(tmp_path, "mine.yaml", "name: mine\ntask: instance\nimages: .\nannotations: list.txt\n"
        "vocabulary: [apple, pear]\nreader: from_lines\n")  # fmt: skip
    write(tmp_path, "list.txt", "one.jpg\ntwo.jpg\n")
    dataset = get_dataset(f"file:{file}")  # its words need no reader
    assert dataset.vocabulary.names == ("apple", "pear")
    with pytest.raises(ConfigError, match=r"'from_lines' is unknown.*Registered: coco_instances, lvis"):
        _ = dataset.samples

    @register("dataset_reader", "from_lines")
    def from_lines(*, images: Path, annotations: Path, vocabulary: Any, class_of_id: Any) -> list[Any]:
        return [{"file_name": str(images / line)} for line in annotations.read_text().split()]

    assert [Path(sample["file_name"]).name for sample in dataset.samples] == ["one.jpg", "two.jpg"]
    assert report_of(f"file:{file}").issues == []
    (tmp_path / "list.txt").unlink()
    assert len(report_of(f"file:{file}").issues) == 1


READER = "name: mine\ntask: instance\nimages: .\nannotations: .\nvocabulary: [apple, pear]\n"


def test_a_reader_gets_the_keys_of_its_dataset_file(tmp_path: Path) -> None:
    @register("dataset_reader", "listed")
    def listed(
        *, images: Path, annotations: Path, vocabulary: Any, class_of_id: Any, extra: Any
    ) -> list[Any]:
        return [{"file_name": str(images / name)} for name in extra.FILES.NAMES]

    text = READER + "reader: listed\nextra: {FILES: {NAMES: [a.jpg, b.jpg]}}\n"
    samples = get_dataset(f"file:{write(tmp_path, 'mine.yaml', text)}").samples
    assert [Path(sample["file_name"]).name for sample in samples] == ["a.jpg", "b.jpg"]
    for wrong, issue in (
        ("extra: {A: 1}\n", "extra: means nothing without a reader of your own"),
        ("reader: coco_instances\nextra: {A: 1}\n", "extra: means nothing without a reader of your own"),
        ("reader: listed\nextra: 3\n", "extra: expected keys and values, got 3"),
        ("reader: listed\nextra: {a-b: 1}\n", "'a-b' cannot be a key"),
    ):
        with pytest.raises(DatasetError, match=issue):
            get_dataset(f"file:{write(tmp_path, 'mine.yaml', READER + wrong)}")


def test_what_a_reader_returns_is_checked(tmp_path: Path) -> None:
    register("dataset_reader", "junk")(lambda **arguments: [{"image": 1}])
    dataset = f"file:{write(tmp_path, 'mine.yaml', READER + 'reader: junk')}"
    with pytest.raises(PluginError, match=r"dataset_reader 'junk' returned something else than samples"):
        report_of(dataset)


# Modules.


def test_a_module_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = write(tmp_path, "my_plugin.py", REGISTERS)
    import_plugins(["my_plugin"])
    import_plugins(["my_plugin", "my_plugin.py"])  # it stays as it is
    assert "mine" in registered("augmentation")
    assert plugin_files(["my_plugin.py"]) == {"my_plugin": str(file)}


def test_a_path_says_where_a_module_lies_that_the_configuration_names(tmp_path: Path) -> None:
    file = str(write(tmp_path, "my_elsewhere.py", REGISTERS))
    assert merge_plugins(["one", "my_elsewhere"], [file, "two"]) == ("one", file, "two")
    assert (file,) == get_cfg(None, plugins=[file]).MODEL.CMPF.PLUGINS
    import_plugins([file, "my_elsewhere"])
    assert "mine" in registered("augmentation")


def test_what_is_wrong_with_a_plugin_is_said_with_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "my_broken.py", "x = 1\ny = x.nothing\n")
    write(tmp_path, "my_needy.py", "import my_absent_library\n")
    write(tmp_path, "my_script.py", "raise SystemExit(3)\n")
    write(tmp_path, "my_other.py", "")
    import_plugins(["my_other"])
    (tmp_path / "other").mkdir()
    second = write(tmp_path / "other", "my_other.py", "")
    for name, message in (
        ("my_nowhere", rf"no module my_nowhere in {tmp_path} or .*PYTHONPATH.*--plugin PATH/my_nowhere.py"),
        ("lib/my_parts.py", f"{tmp_path}/lib/my_parts.py: no such file"),
        ("my_broken", r"AttributeError: .*nothing.* \(.*my_broken.py line 2\)"),
        ("my_needy", r"cannot be imported: ModuleNotFoundError: No module named 'my_absent_library'"),
        ("my_parts.txt/parts", "expected the name of a module, .* or the path of a .py file"),
        ("./my_other", "expected the name of a module, .* or the path of a .py file"),
        ("my_script", r"cannot be imported: SystemExit: 3 \(.*my_script.py line 1\)"),
        (str(second), f"a module my_other is already imported, from {tmp_path}/my_other.py"),
    ):
        with pytest.raises(PluginError, match=message):
            import_plugins([name])


def test_importing_cmpf_registers_nothing_and_register_needs_no_torch() -> None:
    code = (
        "import sys, cmpf, cmpf.registry as r\n"
        "print(any(r._parts.values()))\n"
        "cmpf.register('criterion', 'mine')(dict)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.split() == ["False", "False"]


# Weights that were trained with a plug-in.


def test_weights_tell_the_plugin_that_they_were_trained_with(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "model.safetensors"
    here = ["MODEL.WEIGHTS", str(file)]
    weights.save(build_model(shipped()), file, metadata={"plugins": {"my_parts": "/home/you/my_parts.py"}})
    build_model(shipped(*here))
    assert "was trained with the plug-in my_parts (/home/you/my_parts.py)" in caplog.text
    with pytest.raises(PluginError, match=r"It was /home/you/my_parts\.py when the weights were saved"):
        build_model(shipped(*here, "MODEL.CMPF.PLUGINS", "my_parts"))
    with pytest.raises(
        PluginError, match=r"gone/my_parts\.py: no such file\. It was /home/you/my_parts\.py when"
    ):
        build_model(shipped(*here, "MODEL.CMPF.PLUGINS", "gone/my_parts.py"))
    with pytest.raises(WeightsError, match=r"was trained with the plug-in my_parts.*does not fit"):
        build_model(shipped(*here, "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 7))


def test_a_training_that_is_resumed_without_its_plugin_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = build_model(shipped())
    write(tmp_path, "my_parts.py", REGISTERS)
    monkeypatch.chdir(tmp_path)
    with_plugin, without = (
        build_checkpointer(shipped("OUTPUT_DIR", str(tmp_path), "MODEL.CMPF.PLUGINS", plugins), model)
        for plugins in (("my_parts",), ())
    )
    with_plugin.save(1, {"iteration": 1})
    with_plugin.load_newest()
    assert "plug-in" not in caplog.text
    without.load_newest()
    assert (
        f"was trained with the plug-in my_parts ({tmp_path}/my_parts.py): name it by --plugin" in caplog.text
    )


def test_a_model_of_the_hub_imports_no_plugin_that_the_user_does_not_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "snapshot"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        shipped("MODEL.CMPF.PLUGINS", "my_hub_parts").dump(), encoding="utf-8"
    )
    weights.save(build_model(shipped()), folder / "model_final.safetensors", metadata={})
    write(tmp_path, "my_hub_parts.py", REGISTERS)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    with pytest.raises(PluginError, match=r"--plugin my_hub_parts, in Python plugins=\['my_hub_parts'\]"):
        load_predictor("somebody/model")
    assert "my_hub_parts" not in sys.modules
    load_predictor("somebody/model", plugins=["my_hub_parts.py"])
    assert "my_hub_parts" in sys.modules


# The example.


def test_the_example_is_trained_resumed_evaluated_and_used(tmp_path: Path) -> None:
    """Each command is a process of its own, which knows of the plug-in only what it is told or finds in the folder."""
    assert len(FILE.text.strip().splitlines()) <= 30
    parts = write(tmp_path, "my_parts.py", FILE.text)
    shutil.copytree(ROOT / "tests/data/own_dataset", tmp_path / "my_fruit")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        call = [sys.executable, *command]
        return subprocess.run(
            call, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
        )

    for program, *arguments in command_lines(COMMANDS):
        assert program == "cmpf"
        arguments = [SHORT.get(word, word) for word in arguments]
        done = run("-m", "cmpf", *arguments, *(QUICK if arguments[0] in ("train", "eval") else ()))
        assert done.returncode == 0, done.stderr
    lines = (tmp_path / "output/gated/metrics.json").read_text(encoding="utf-8").splitlines()
    assert any("loss_area" in json.loads(line) for line in lines)
    trained = weights.read_contents(tmp_path / "output/gated/model_final.safetensors")
    assert trained.tensors["decoder.query_injector.gate"] != torch.tensor(0.1)
    assert trained.metadata["plugins"] == {"my_parts": str(parts)}
    results = [
        json.loads((tmp_path / f"output/{n}/results.json").read_text()) for n in ("gated", "gated_eval")
    ]
    assert results[0] == results[1]
    assert (tmp_path / "output/gated_found/bowl_01.jpg").is_file()
    saving = 'seg.save_pretrained("saved")\nprint(type(seg.model.decoder.query_injector).__name__)\n'
    done = run("-c", LOADING.text + saving)
    assert done.stdout.strip() == "GatedQueryInjector", done.stderr
    assert "my_parts.py" not in get_cfg(tmp_path / "saved/config.yaml").MODEL.CMPF.PLUGINS

    parts.rename(tmp_path / "my_fruit/my_parts.py")
    predict = ("-m", "cmpf", "predict", "my_fruit/images/val/bowl_01.jpg", "--vocabulary", "apple; pear")
    done = run(*predict, "--model", "saved")
    assert done.returncode == 1
    assert "folder saved needs the plug-in my_parts: code" in done.stderr
    done = run(*predict, "--model", "saved", "--plugin", "my_parts")
    assert done.returncode == 1
    assert "plug-in my_parts" in done.stderr
    assert "It was my_parts.py when the weights were saved" in done.stderr
    done = run(*predict, "--model", "saved", "--plugin", "my_fruit/my_parts.py")
    assert done.returncode == 0, done.stderr
