# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Trials of hostile files, of the web page under load, and of 1,000 predictions."""

from __future__ import annotations

import io
import json
import os
import pickle
import tempfile
import threading
import urllib.request
import uuid
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
from PIL import Image

import cmpf
from benchmarks.trust.trials import Trial, resident_mib, timed
from cmpf import weights
from cmpf.config import get_cfg
from cmpf.data.datasets.custom import read_dataset_file
from cmpf.encoders.sam_proposals import Proposals
from cmpf.formats.image import read_image
from cmpf.inference.prediction import Prediction
from cmpf.inference.proposal_cache import ProposalCache
from cmpf.weights.hub import find_model

WORDS = ["red circle", "sky", "grass"]
CLIENTS, VISITORS, PREDICTIONS = 50, 1000, 1000


class _Code:
    """Runs a command when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch RAN",)


def hostile() -> Trial:
    """Files that try to exhaust memory, hang, mislead or run code: each must be rejected."""
    trial = Trial("hostile files")
    with timed(trial), tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        before = Path.cwd()
        os.chdir(folder)
        try:
            for what, call in _hostile_calls(folder):
                trial.attempt(what, call)
            if (folder / "RAN").exists():
                trial.findings.append("code ran")
        finally:
            os.chdir(before)
    if trial.refused != trial.tried:
        trial.findings.append(f"{trial.tried - trial.refused} were accepted")
    return trial


def _hostile_calls(folder: Path) -> list[tuple[str, Any]]:
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "photo.jpg", format="EPS")
    Image.new("1", (30_000, 30_000)).save(folder / "bomb.png")
    (folder / "w.pkl").write_bytes(pickle.dumps(_Code()))
    (folder / "w.pth").write_bytes(pickle.dumps({"model": _Code()}))
    layers = "\n".join(f"  a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))
    (folder / "bomb.yaml").write_text(f"MODEL:\n  a0: &a0 []\n{layers}\n", encoding="utf-8")
    (folder / "deep.yaml").write_text("SEED: " + "[" * 5000 + "]" * 5000, encoding="utf-8")
    (folder / "deep.json").write_text("[" * 100_000, encoding="utf-8")
    model = folder / "model"
    model.mkdir()
    cfg = get_cfg(
        "no_ensemble", ["OUTPUT_DIR", "/tmp/elsewhere", "MODEL.CMPF.CLIP.PRETRAINED", "/etc/passwd"]
    )
    (model / "config.yaml").write_text(cfg.dump(), encoding="utf-8")
    code = get_cfg("no_ensemble", ["MODEL.CMPF.PLUGINS", ["evil"]])
    (folder / "plugin").mkdir()
    (folder / "plugin/config.yaml").write_text(code.dump(), encoding="utf-8")
    (folder / "evil.py").write_text("open('RAN', 'w')", encoding="utf-8")
    os.mkfifo(folder / "pipe.png")
    cache = ProposalCache(folder=folder, settings={}, command="x")
    image = folder / "a.jpg"
    image.write_bytes(b"an image")
    cache.store(image, Proposals(cmpf_zeros(), (32, 32), (4, 4)))
    _inflate(cache.path(image, (4, 4)))
    return [
        ("EPS named photo.jpg", lambda: read_image(folder / "photo.jpg")),
        ("900 megapixels in a small PNG", lambda: read_image(folder / "bomb.png")),
        ("a pipe named pipe.png", lambda: read_image(folder / "pipe.png")),
        ("pickle", lambda: weights.read_contents(folder / "w.pkl")),
        ("pickle named .pth", lambda: weights.read_contents(folder / "w.pth")),
        ("alias bomb", lambda: get_cfg(folder / "bomb.yaml")),
        ("alias bomb as dataset", lambda: read_dataset_file(folder / "bomb.yaml")),
        ("5,000 brackets", lambda: get_cfg(folder / "deep.yaml")),
        ("100,000 brackets of JSON", lambda: cmpf_json(folder / "deep.json")),
        ("a model that names /etc/passwd", lambda: find_model(str(model), need_weights=False)),
        ("a model that names a plug-in", lambda: find_model(str(folder / "plugin"), need_weights=False)),
        ("a mask cache of 3.6 GB in 3.5 MB", lambda: cache.load(image, input_size=(4, 4))),
        ("inner address", lambda: read_image("http://169.254.169.254/", allow_urls=True)),
        ("file address", lambda: read_image("file:///etc/passwd", allow_urls=True)),
    ]


def cmpf_zeros() -> Any:
    """An empty tensor of masks."""
    import torch

    return torch.zeros(0, 4, 4)


def cmpf_json(path: Path) -> Any:
    """Reads a JSON file with CMPF's reader."""
    from cmpf.formats.coco_json import read_json

    return read_json(path)


def _inflate(path: Path) -> None:
    """Replaces the logits in a file by a header that declares gigabytes."""
    with zipfile.ZipFile(path) as archive:
        header = archive.read("header.npy")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("header.npy", header)
        buffer = io.BytesIO()
        shape = {"descr": "|u1", "fortran_order": False, "shape": (4, 900, 1000, 1000)}
        np.lib.format.write_array_header_1_0(buffer, shape)
        archive.writestr("logits.npy", buffer.getvalue())


def predictions() -> Trial:
    """A thousand predictions of the tiny model: results must be equal and memory must not grow."""
    trial = Trial(f"{PREDICTIONS:,} predictions in sequence")
    seg = cmpf.load("cmpf_tiny", device="cpu", overrides=["TEST.ENSEMBLE.ENABLED", False])
    image = np.random.default_rng(0).integers(0, 255, (64, 96, 3), np.uint8)
    with timed(trial):
        first = seg.predict(image, WORDS)
        for number in range(PREDICTIONS):
            prediction = seg.predict(image, WORDS)
            trial.tried += 1
            if not np.array_equal(prediction.panoptic, first.panoptic):
                trial.findings.append(f"prediction {number} differs")
            if number == PREDICTIONS // 10:
                before = resident_mib()
    grown = resident_mib() - before
    trial.figures.append(f"memory growth {grown:.0f} MiB")
    if grown > 50:
        trial.findings.append(f"memory grew by {grown:.0f} MiB")
    return trial


class _FixedPredictor:
    """A predictor with a constant result, because the trial is about the page."""

    mask_ensemble = None
    known: tuple[Any, ...] = ()

    def __init__(self, prediction: Prediction) -> None:
        self._prediction = prediction

    def predict(self, *_: Any, **__: Any) -> Prediction:
        return self._prediction


def page(clients: int = CLIENTS, visitors: int = VISITORS) -> Trial:
    """Concurrent clients, then visitors one after the other: must be served or told to wait; memory must not grow."""
    from cmpf.web import Limits, running
    from cmpf.web.server import FOLDER_VARIABLE

    trial = Trial(f"the web page with {clients} simultaneous clients, then {visitors:,} visitors")
    seg = cmpf.load("cmpf_tiny", device="cpu", overrides=["TEST.ENSEMBLE.ENABLED", False])
    image = np.random.default_rng(0).integers(0, 255, (256, 320, 3), np.uint8)
    fixed = _FixedPredictor(seg.predict(image, WORDS))
    with timed(trial), running(fixed, limits=Limits(queue=32)) as address:  # type: ignore[arg-type]
        path = str(next(Path(os.environ[FOLDER_VARIABLE]).rglob("shapes_1.png")))
        answers: Counter[str] = Counter()
        threads = [
            threading.Thread(target=lambda: answers.update([_visit(address, path)])) for _ in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        trial.tried += clients
        trial.figures.append(
            f"simultaneous: {', '.join(f'{kind} {n}' for kind, n in sorted(answers.items()))}"
        )
        before = 0.0
        for number in range(visitors):
            answer = _visit(address, path)
            trial.tried += 1
            answers[answer] += 1
            if number == visitors // 10:
                before = resident_mib()
        grown = resident_mib() - before
    odd = {kind: count for kind, count in answers.items() if kind not in ("served", "told to wait")}
    trial.findings += [f"{count} visitors: {kind}" for kind, count in odd.items()]
    trial.figures.append(f"memory growth {grown:.0f} MiB")
    if grown > 50:
        trial.findings.append(f"memory grew by {grown:.0f} MiB")
    return trial


def _visit(address: str, path: str) -> str:
    """Segments an image as a visitor of the page; returns the outcome."""
    session, api = uuid.uuid4().hex, f"{address}gradio_api"
    try:
        config = json.loads(urllib.request.urlopen(f"{address}config", timeout=60).read())
        (function,) = [d["id"] for d in config["dependencies"] if d["api_name"] == "segment"]
        image = {"path": path, "meta": {"_type": "gradio.FileData"}}
        request = {
            "data": [image, WORDS, "panoptic", False, 0.3],
            "fn_index": function,
            "session_hash": session,
        }
        body = json.dumps(request).encode()
        headers = {"Content-Type": "application/json"}
        urllib.request.urlopen(urllib.request.Request(f"{api}/queue/join", body, headers), timeout=60).read()
        with urllib.request.urlopen(f"{api}/queue/data?session_hash={session}", timeout=120) as stream:
            for line in stream:
                message = json.loads(line.removeprefix(b"data:")) if line.startswith(b"data:") else {}
                if message.get("msg") == "process_completed":
                    return "served" if "cmpf-result" in str(message["output"]) else "an error as the result"
    except HTTPError as error:
        return "told to wait" if error.code == 503 else f"HTTP {error.code}"
    except OSError as error:
        return type(error).__name__
    return "no result"
