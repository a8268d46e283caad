# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Translates the command line of cmpf predict to arguments of the library."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.cli.command import load_model
from cmpf.cli.predict_options import TASKS, split_names, tiling_options
from cmpf.errors import CMPFError

if TYPE_CHECKING:
    from cmpf.data.vocabulary import Vocabulary
    from cmpf.predictor import Predictor

# Output format -> format of Prediction.save; for the frames of a video.
FRAME_FORMATS = {
    "semantic": "semantic",
    "instances": "instances",
    "coco": "coco",
    "coco-panoptic": "panoptic",
}


class PredictRequest:
    """The parsed command line.

    formats: output formats, see cmpf.labelling.writers.resolve_formats.
    predict_options: arguments of Predictor.settings.
    prepare_options: arguments of Predictor.prepare.
    load_predictor, build_vocabulary: see cmpf.labelling.pipeline.Job; picklable.

    Raises:
        CMPFError: --task and --formats contradict each other.
    """

    def __init__(self, arguments: Namespace) -> None:
        from cmpf.labelling.writers import FORMATS, resolve_formats

        self.arguments = arguments
        self.formats = resolve_formats(arguments.formats)
        required = {
            task for name in self.formats if not FORMATS[name].any_task for task in FORMATS[name].tasks
        }
        default = {task for name in self.formats for task in FORMATS[name].tasks}
        tasks = {None: default, "all": set(TASKS[1:])}.get(arguments.task, {arguments.task})
        if missing := sorted(required - tasks):
            names = [name for name in self.formats if set(FORMATS[name].tasks) & set(missing)]
            raise CMPFError(
                f"--task {arguments.task}: the formats {', '.join(names)} are made of {' and '.join(missing)} results; "
                "leave --task out, or choose other formats"
            )
        selection = {
            name: value
            for name in ("min_score", "max_instances", "nms", "min_semantic_score")
            if (value := getattr(arguments, name)) is not None
        }
        self.predict_options: dict[str, Any] = {
            "task": [task for task in TASKS[1:] if task in tasks],
            "ensemble": arguments.ensemble or None,
            **selection,
            "multi_label": arguments.multi_label,
            "background": arguments.background or arguments.min_semantic_score is not None,
            **tiling_options(arguments),
        }
        self.prepare_options: dict[str, Any] = {"allow_urls": arguments.allow_urls}
        if arguments.max_pixels is not None:
            self.prepare_options["max_pixels"] = arguments.max_pixels
        options = ("model", "weights", "plugin", "opts", "allow_unused_weights")
        self._model = {name: getattr(arguments, name) for name in options}
        # The SAM of the ensemble is loaded with the model.
        overrides = ["TEST.ENSEMBLE.ENABLED", True] if arguments.ensemble else []
        self.load_predictor = partial(_load_predictor, Namespace(**self._model), overrides)
        self.build_vocabulary = partial(
            _build_vocabulary, arguments.vocabulary, arguments.things, arguments.stuff
        )

    def load(self) -> tuple[Predictor, Vocabulary]:
        """Loads the model in this process."""
        predictor = self.load_predictor(self.arguments.device)
        return predictor, self.build_vocabulary(predictor)

    def devices(self) -> list[str | None]:
        """The PyTorch device of each replica, None = the default device.

        Raises:
            CMPFError: several devices and --processes.
        """
        arguments = self.arguments
        first, *others = (arguments.device or "").split(",")
        devices: list[str | None] = [first or None]
        devices += [other if ":" in other or not other.isdecimal() else f"cuda:{other}" for other in others]
        if len(devices) > 1 and arguments.processes not in (None, 1):
            raise CMPFError(
                f"--processes {arguments.processes} with --device {arguments.device}: several devices have one "
                "process each; leave --processes out"
            )
        return devices

    def settings(self) -> dict[str, Any]:
        """See cmpf.labelling.run.RunOptions.settings."""
        from cmpf.labelling.writers import FORMATS

        model = {name: self._model[name] for name in ("model", "opts")}
        formats = [name for name in self.formats if FORMATS[name].has_image_files]
        return {**model, **self.predict_options, "formats": formats}

    def request(self) -> dict[str, Any]:
        """See cmpf.labelling.run.RunOptions.request."""
        vocabulary = {name: getattr(self.arguments, name) for name in ("vocabulary", "things", "stuff")}
        paths = [self._model["model"], self._model["weights"], self.arguments.vocabulary]
        files = {str(path): _size_and_time(path) for path in paths if path and _is_file(path)}
        request = {
            **self.settings(),
            **self._model,
            **vocabulary,
            "named": list(self.formats),
            "files": files,
        }
        return dict(json.loads(json.dumps(request)))

    def frame_formats(self) -> list[str]:
        """The formats of Prediction.save for the frames of a video.

        Raises:
            CMPFError: a format is not available for videos.
        """
        unsupported = [name for name in self.arguments.formats if name not in ("overlay", *FRAME_FORMATS)]
        if unsupported:
            raise CMPFError(
                f"--formats {' '.join(unsupported)}: a video has overlay, {', '.join(FRAME_FORMATS)}; "
                "extract its frames as images for others"
            )
        return [FRAME_FORMATS.get(name, name) for name in self.formats]


def _load_predictor(model: Namespace, overrides: Sequence[Any], device: str | None) -> Predictor:
    return load_model(model, device=device, overrides=overrides)


def _build_vocabulary(
    vocabulary: str | None, things: str | None, stuff: str | None, predictor: Predictor
) -> Vocabulary:
    from cmpf.factory.vocabularies import demo_vocabulary

    trained = predictor.model.train_vocabulary
    words = demo_vocabulary(trained, predictor.cfg) if vocabulary is None else vocabulary
    return predictor.vocabulary(words, things=split_names(things), stuff=split_names(stuff))


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # a list of classes
        return False


def _size_and_time(name: str) -> list[int]:
    status = Path(name).stat()
    return [status.st_size, status.st_mtime_ns]
