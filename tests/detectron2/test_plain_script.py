# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""A user's script of Detectron2's own parts gives the figures of `cmpf eval`; and the trainer of docs/detectron2.md."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.detectron2_host import SMALL, needs
from helpers.documents import ROOT, blocks

from cmpf import factory, weights
from cmpf.config import config_root, get_cfg
from cmpf.data import get_vocabulary
from cmpf.formats.image import resize_shortest_edge
from cmpf.weights.download import ASSETS

d2 = needs("cmpf.detectron2")
needs("panopticapi.evaluation")
theirs = needs("detectron2.evaluation")
data = needs("detectron2.data")
engine = needs("detectron2.engine")
DetectionCheckpointer = needs("detectron2.checkpoint").DetectionCheckpointer
build_model = needs("detectron2.modeling").build_model
detectron2_get_cfg = needs("detectron2.config").get_cfg
SHIPPED = ASSETS / "cmpf_tiny_decoder.safetensors"


def script_config(name: str, *overrides: object) -> Any:
    cfg = detectron2_get_cfg()
    d2.add_cmpf_config(cfg)
    cfg.merge_from_file(str(config_root() / "shapes" / f"{name}.yaml"))
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", *overrides])
    return cfg


def script_results(cfg: Any, model: Any, folder: Path) -> dict[str, float]:
    """Detectron2's loader, loop and evaluators."""
    (name,) = cfg.DATASETS.TEST
    evaluators = [
        theirs.COCOPanopticEvaluator(name, str(folder)),
        theirs.SemSegEvaluator(name),
        d2.ThingEvaluator(name, output_dir=str(folder)),
    ]
    loader = data.build_detection_test_loader(cfg, name, num_workers=0)
    found = theirs.inference_on_dataset(model, loader, theirs.DatasetEvaluators(evaluators))
    return {
        "PQ": found["panoptic_seg"]["PQ"],
        "mIoU": found["sem_seg"]["mIoU"],
        "AP": found.get("segm", {"AP": 0.0})["AP"],  # Detectron2 leaves it out where no instance was found
    }


def eval_results(name: str, weights_file: Path, *overrides: object) -> dict[str, float]:
    """What `cmpf eval` prints."""
    cfg = get_cfg(name, ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(weights_file), *overrides])
    found = factory.build_evaluation(cfg, factory.build_model(cfg))()["shapes_val"]
    return {"PQ": found["panoptic"]["PQ"], "mIoU": found["sem_seg"]["mIoU"], "AP": found["segm"]["AP"]}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return dict(weights.read_contents(SHIPPED).tensors)


def test_figures_are_those_of_cmpf_eval_for_own_and_published_names(
    shapeworld: Path, tmp_path: Path, state: dict[str, torch.Tensor]
) -> None:
    expected = eval_results("no_ensemble", SHIPPED)
    assert min(expected.values()) > 2
    published = weights.to_published(weights.Parts(trained=state, clip={}, sam={}))
    for number, content in enumerate((state, published)):
        file = tmp_path / f"{number}.pth"
        torch.save({"model": content}, file)
        cfg = script_config("no_ensemble", "MODEL.WEIGHTS", str(file))
        model = build_model(cfg).eval()
        DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
        assert script_results(cfg, model, tmp_path / "out") == pytest.approx(expected, abs=1e-9)


def test_default_predictor_gives_the_models_results(tmp_path: Path, state: dict[str, torch.Tensor]) -> None:
    torch.save({"model": state}, tmp_path / "own.pth")
    cfg = script_config("no_ensemble", "MODEL.WEIGHTS", str(tmp_path / "own.pth"))
    image = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    found = engine.DefaultPredictor(cfg)(image[:, :, ::-1])  # it takes blue, green, red
    native = factory.build_model(
        get_cfg("no_ensemble", ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", str(SHIPPED)])
    )
    pixels = resize_shortest_edge(image, short_side=256, max_side=256).transpose(2, 0, 1)
    sample: Any = {"image": torch.from_numpy(pixels.copy()), "height": 60, "width": 90}
    (result,) = native.infer([sample], get_vocabulary("shapes_train"))
    assert torch.equal(found["panoptic_seg"][0], result["panoptic_seg"][0])
    assert torch.equal(found["sem_seg"].argmax(dim=0), result["sem_seg"])
    assert torch.equal(found["instances"].pred_masks, result["instances"].pred_masks)


SHORT = (*SMALL, "SOLVER.MAX_ITER", 20, "TEST.IMS_PER_BATCH", 1, "MODEL.MASK_FORMER.TEST.MASK_RECALL", False)


@pytest.mark.parametrize("loop", ["native", "detectron2"])
def test_a_training_of_one_loop_is_evaluated_alike_by_the_other(
    shapeworld: Path, tmp_path: Path, loop: str
) -> None:
    cfg = get_cfg("fcclip_tiny", [*SHORT, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(tmp_path)])
    if loop == "native":
        end = factory.build_trainer(cfg, factory.build_model(cfg), writers=[]).train()
        results = end.results
    else:
        results = d2.run(cfg, resume=False, eval_only=False)
    assert results is not None
    tasks = results["shapes_val"]
    trained = {"PQ": tasks["panoptic"]["PQ"], "mIoU": tasks["sem_seg"]["mIoU"], "AP": tasks["segm"]["AP"]}
    file = tmp_path / "model_final.safetensors"
    assert eval_results("fcclip_tiny", file, *SHORT) == pytest.approx(trained, abs=1e-9)
    host = script_config("fcclip_tiny", *SHORT)
    model = build_model(host).eval()
    d2.Checkpointer(model).load(str(file))
    assert script_results(host, model, tmp_path / "out") == pytest.approx(trained, abs=1e-9)


def test_the_trainer_of_the_documentation_trains_and_verifies_its_results(
    shapeworld: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = (ROOT / "docs/detectron2.md").read_text(encoding="utf-8")
    (source,) = (b.text for b in blocks("docs/detectron2.md", text) if "class OwnTrainer" in b.text)
    assert len(source.splitlines()) <= 60
    names: dict[str, Any] = {"__name__": "own_trainer"}
    exec(compile(source, "docs/detectron2.md", "exec"), names)
    small = [str(part) for part in (*SMALL, "SOLVER.MAX_ITER", 2, "OUTPUT_DIR", tmp_path)]
    small += ["MODEL.DEVICE", "cpu", "TEST.EXPECTED_RESULTS", "[['panoptic_seg', 'PQ', 50, 50]]"]
    results = names["main"](str(config_root() / "shapes" / "fcclip_tiny.yaml"), *small)
    assert {"panoptic_seg", "sem_seg", "segm"} <= results.keys()
    assert (tmp_path / "own_final.pth").is_file()
    assert "loss_ce" in json.loads((tmp_path / "metrics.json").read_text().splitlines()[0])
    with pytest.raises(SystemExit):  # Detectron2's own verify_results
        names["main"](
            str(config_root() / "shapes" / "fcclip_tiny.yaml"), *small[:-1], "[['segm', 'AP', 200, 1]]"
        )
