# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""What a command line of cmpf predict asks for, in the terms of the library."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cmpf.cli.command import load_model
from cmpf.cli.predict_options import TASKS, tiling_of
from cmpf.errors import CMPFError

if TYPE_CHECKING:
    from cmpf.data.vocabulary import Vocabulary
    from cmpf.predictor import Predictor

# Format -> what Prediction.save calls it; of each frame of a video.
OF_FRAMES = {"semantic": "semantic", "instances": "instances", "coco": "coco", "coco-panoptic": "panoptic"}


class Chosen:
    """See the module. Raises CMPFError where options contradict each other."""

    def __init__(self, arguments: Namespace) -> None:
        from cmpf.labelling.writers import FORMATS as KNOWN
        from cmpf.labelling.writers import chosen_formats

        self.arguments = arguments
        self.formats = chosen_formats(arguments.formats)
        needed = {task for name in self.formats if not KNOWN[name].any_task for task in KNOWN[name].tasks}
        usual = {task for name in self.formats for task in KNOWN[name].tasks}
        given = {None: needed | usual, "all": set(TASKS[1:])}.get(arguments.task, {arguments.task})
        if missing := sorted(needed - given):
            names = [name for name in self.formats if set(KNOWN[name].tasks) & set(missing)]
            raise CMPFError(
                f"--task {arguments.task}: the formats {', '.join(names)} are made of {' and '.join(missing)} results; "
                "leave --task out, or choose other formats"
            )
        self.tasks = [task for task in TASKS[1:] if task in given]
        self.selection = {
            name: value
            for name in ("min_score", "max_instances", "nms", "min_semantic_score")
            if (value := getattr(arguments, name)) is not None
        }
        self.selection["multi_label"] = arguments.multi_label
        self.selection["background"] = arguments.background or arguments.min_semantic_score is not None
        ensemble = arguments.ensemble or None
        self.predict: dict[str, Any] = {"task": self.tasks, "ensemble": ensemble, **self.selection}
        self.predict |= tiling_of(arguments)
        self.reading: dict[str, Any] = {"allow_urls": arguments.allow_urls}
        if arguments.max_pixels is not None:
            self.reading["max_pixels"] = arguments.max_pixels
        model = ("model", "weights", "plugin", "opts", "allow_unused_weights")
        self.model = {name: getattr(arguments, name) for name in model}
        # The ensemble's SAM is part of the model.
        overrides = ["TEST.ENSEMBLE.ENABLED", True] if arguments.ensemble else []
        self.load = partial(_load, Namespace(**self.model), overrides)
        self.words = partial(_words, arguments.vocabulary, arguments.things, arguments.stuff)

    def loaded(self) -> tuple[Predictor, Vocabulary]:
        """The model and its classes, in this process."""
        predictor = self.load(self.arguments.device)
        return predictor, self.words(predictor)

    def devices(self) -> list[str | None]:
        """A device for each model."""
        arguments = self.arguments
        first, *others = (arguments.device or "").split(",")
        named: list[str | None] = [first or None]
        named += [other if ":" in other or not other.isdecimal() else f"cuda:{other}" for other in others]
        if len(named) > 1 and arguments.processes not in (None, 1):
            raise CMPFError(
                f"--processes {arguments.processes} with --device {arguments.device}: several devices have one "
                "process each; leave --processes out"
            )
        return named

    def settings(self) -> dict[str, Any]:
        """What results depend on beside weights and vocabulary."""
        from cmpf.labelling.writers import FORMATS as KNOWN

        own = {name: self.model[name] for name in ("model", "opts")}
        files = [name for name in self.formats if KNOWN[name].of_images]
        return {**own, **self.predict, "formats": files}

    def request(self) -> dict[str, Any]:
        """The command line as far as the results depend on it, by which a finished run is known again."""
        words = {name: getattr(self.arguments, name) for name in ("vocabulary", "things", "stuff")}
        named = [self.model["model"], self.model["weights"], self.arguments.vocabulary]
        files = {str(path): _signature(path) for path in named if path and _is_file(path)}
        request = {**self.settings(), **self.model, **words, "named": list(self.formats), "files": files}
        return dict(json.loads(json.dumps(request)))

    def formats_of_frames(self) -> list[str]:
        """The formats that a video has, by the names of Prediction.save."""
        if strange := [name for name in self.arguments.formats if name not in ("overlay", *OF_FRAMES)]:
            raise CMPFError(
                f"--formats {' '.join(strange)}: a video has overlay, {', '.join(OF_FRAMES)}; "
                "extract its frames as images for others"
            )
        return [OF_FRAMES.get(name, name) for name in self.formats]


def _load(model: Namespace, overrides: Sequence[Any], device: str | None) -> Predictor:
    return load_model(model, device=device, overrides=overrides)


def _words(vocabulary: str | None, things: str | None, stuff: str | None, predictor: Predictor) -> Vocabulary:
    from cmpf.factory.vocabularies import demo_vocabulary

    wanted = vocabulary or demo_vocabulary(predictor.model.train_vocabulary, predictor.cfg)
    return predictor.vocabulary(wanted, things=_names(things), stuff=_names(stuff))


def _names(text: str | None) -> list[str] | None:
    return None if text is None else [name for name in text.split(";") if name.strip()]


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # words, not a path
        return False


def _signature(name: str) -> list[int]:
    state = Path(name).stat()
    return [state.st_size, state.st_mtime_ns]
