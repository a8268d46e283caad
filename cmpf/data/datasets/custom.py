# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Custom datasets, each defined by a YAML file with paths relative to it:

    name: my_fruit_val
    task: panoptic                   # panoptic, semantic or instance
    images: images/val
    annotations: panoptic_val.json   # COCO panoptic or instances JSON; semantic: folder of label maps
    vocabulary: fruit.txt            # a vocabulary file, a list of classes, or the name of a known dataset

OPTIONAL lists the optional keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from cmpf.common.files import load_yaml, read_yaml_text
from cmpf.config.sections import Tree
from cmpf.data.datasets.custom_values import (
    WrongValueError,
    parse_class_names,
    parse_extra,
    parse_label,
    parse_label_map,
    parse_path,
    parse_test_size,
    parse_text,
    parse_vocabulary,
    with_things,
)
from cmpf.data.datasets.issues import Issues
from cmpf.data.datasets.readers import read_coco_instances, read_coco_panoptic, read_lvis, read_semantic
from cmpf.data.datasets.readers.folders import check_class_of_id
from cmpf.data.datasets.spec import DatasetSpec, Kind
from cmpf.data.vocabulary import Vocabulary
from cmpf.errors import DatasetError, PluginError, VocabularyError
from cmpf.registry import register, resolve
from cmpf.types import Sample

TASKS: tuple[Kind, ...] = ("panoptic", "semantic", "instance")
OWN_READERS: Mapping[str, Callable[..., list[Sample]]] = {
    "coco_instances": read_coco_instances,
    "lvis": read_lvis,
}
REQUIRED = ("name", "task", "images", "annotations", "vocabulary")
# Key -> the tasks that accept it, and the parser of its value.
OPTIONAL: Mapping[str, tuple[tuple[Kind, ...], Callable[[Any], Any]]] = {
    "reader": (TASKS, parse_text),  # name of a registered reader, see docs/plugins.md; default: by task
    "extra": (TASKS, parse_extra),  # keys for a reader of one's own
    "things": (TASKS, parse_class_names),  # names of the thing classes; all others are stuff
    "test_size": (TASKS, parse_test_size),  # [shorter side, maximum longer side]
    "label_map": (TASKS, parse_label_map),  # category id, or value in the label maps -> class index
    "ignore_label": (("panoptic", "semantic"), parse_label),  # value of unlabeled pixels; default 255
    "panoptic": (("panoptic",), parse_path),  # folder of the PNGs; default: the JSON file without its suffix
    "label_files": (("panoptic",), parse_path),  # folder of label maps, for mIoU
    "instances": (("panoptic",), parse_path),  # COCO instances JSON, for AP
    "image_suffix": (("semantic",), parse_text),  # end of the image file names, such as _leftImg8bit
    "label_suffix": (("semantic",), parse_text),  # end of the label map file names
}
# Keys whose values name files or folders.
PATHS = (
    "images",
    "annotations",
    "vocabulary",
    *(k for k, (_, parse) in OPTIONAL.items() if parse is parse_path),
)


def read_dataset_file(
    path: Path, *, known: Mapping[str, DatasetSpec] | None = None
) -> tuple[DatasetSpec, Path]:
    """Reads the YAML file of a custom dataset.

    Args:
        known: datasets whose vocabularies can be referred to by name.
    Returns:
        The spec, and the folder of the file, which is the base of the spec's paths.
    Raises:
        DatasetError: the file cannot be read, or keys or values are invalid (all listed in one message).
    """
    known = known or {}
    content = _read_yaml(path)
    issues = _key_issues(content)
    values: dict[str, Any] = {}
    for key, parse in _parsers(known, path.parent).items():
        if key in content:
            try:
                values[key] = parse(content[key])
            except (WrongValueError, VocabularyError) as error:
                issues.append(f"{key}: {error}")
    if "vocabulary" in values and "things" in values:
        try:
            values["vocabulary"] = with_things(values["vocabulary"], values["things"])
        except VocabularyError as error:
            issues.append(f"things: {error}")
    if "vocabulary" in values:
        label_map_issues = Issues()
        check_class_of_id(values.get("label_map"), values["vocabulary"], path, label_map_issues)
        issues += [issue.message for issue in label_map_issues.found]
    if issues:
        count = f"{len(issues)} issue{'s' if len(issues) > 1 else ''}"
        raise DatasetError(f"{path} ({count}): {' · '.join(issues)}")
    return _spec(values, path), path.parent


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        source = read_yaml_text(path)
        content = load_yaml(source)
        node = yaml.compose(source, Loader=yaml.SafeLoader)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such dataset file (looked at {path.absolute()})") from error
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read as a dataset file ({error.strerror})") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise DatasetError(f"{path}: no YAML file ({reason})") from error
    if not isinstance(content, dict) or not isinstance(node, yaml.MappingNode):
        raise DatasetError(f"{path}: expected lines KEY: VALUE with {', '.join(REQUIRED)}")
    keys = [key.value for key, _ in node.value]
    duplicates = sorted({key for key in keys if keys.count(key) > 1})
    if duplicates:
        raise DatasetError(f"{path}: {', '.join(duplicates)} given twice; keep one")
    return content


def _key_issues(content: Mapping[Any, Any]) -> list[str]:
    """Reports missing and unknown keys, and keys without meaning for the task."""
    issues = [f"{key}: missing" for key in REQUIRED if key not in content]
    task = content.get("task")
    if "extra" in content and content.get("reader") in (None, *OWN_READERS):
        issues.append("extra: means nothing without a reader of your own")
    for key in content:
        if key in OPTIONAL and task in TASKS and task not in OPTIONAL[key][0]:
            issues.append(f"{key}: means nothing for task {task}, only for {' and '.join(OPTIONAL[key][0])}")
        elif key not in OPTIONAL and key not in REQUIRED:
            near = get_close_matches(str(key), [*REQUIRED, *OPTIONAL], n=1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join([*REQUIRED, *OPTIONAL])}"
            issues.append(f"{key}: unknown, {hint}")
    return issues


def _parsers(known: Mapping[str, DatasetSpec], folder: Path) -> dict[str, Callable[[Any], Any]]:
    """Key -> parser of its value."""
    vocabularies = {name: spec.vocabulary for name, spec in known.items()}
    return {
        "name": partial(_parse_name, known),
        "task": _parse_task,
        "images": parse_path,
        "annotations": parse_path,
        "vocabulary": partial(parse_vocabulary, known=vocabularies, folder=folder),
        **{key: parse for key, (_, parse) in OPTIONAL.items()},
    }


def _parse_name(known: Mapping[str, DatasetSpec], value: Any) -> str:
    name = parse_text(value)
    if name in known:
        raise WrongValueError(f"{name} is a known dataset; choose another name")
    return name


def _parse_task(value: Any) -> Kind:
    for task in TASKS:
        if value == task:
            return task
    raise WrongValueError(f"expected {', '.join(TASKS[:-1])} or {TASKS[-1]}, got {value!r}")


def _spec(values: Mapping[str, Any], path: Path) -> DatasetSpec:
    read_parts = _custom_reader_parts if "reader" in values else _PARTS[values["task"]]
    truth, reader, evaluators = read_parts(values)
    vocabulary: Vocabulary = values["vocabulary"]
    return DatasetSpec(
        name=values["name"],
        kind=values["task"],
        folder=str(path.parent),
        images=values["images"],
        truth=truth,
        reader=reader,
        vocabulary=lambda: vocabulary,
        command=f"correct the paths in {path}",
        evaluators=evaluators,
        class_of_id=values.get("label_map"),
        ignore_label=values.get("ignore_label", 255),
        test_size=values.get("test_size"),
    )


_Parts = tuple[dict[str, str], Callable[..., list[Sample]], tuple[str, ...]]  # truth, reader, evaluators


def _custom_reader_parts(values: Mapping[str, Any]) -> _Parts:
    """Resolves a custom reader when samples are read, since plug-ins may be imported later."""
    name = values["reader"]

    def read(**arguments: Any) -> list[Sample]:
        extra = values.get("extra", Tree())
        samples = resolve("dataset_reader", name, like=read_coco_instances, extra=extra)(**arguments)
        if not all(isinstance(sample, Mapping) and "file_name" in sample for sample in samples):
            raise PluginError(
                f"dataset_reader {name!r} returned something else than samples, which are dicts with file_name and "
                "what else cmpf.types.Sample lists"
            )
        return samples

    evaluator = "lvis" if name == "lvis" else values["task"]
    return {"annotations": values["annotations"]}, OWN_READERS.get(name, read), (evaluator,)


def _panoptic_parts(values: Mapping[str, Any]) -> _Parts:
    annotations = Path(values["annotations"])
    truth = {
        "annotations": values["annotations"],
        "panoptic": values.get("panoptic", str(annotations.parent / annotations.stem)),
    }
    evaluators = ["panoptic"]
    for key, argument, evaluator in (
        ("instances", "instances", "instance"),
        ("label_files", "semantic", "semantic"),
    ):
        if key in values:
            truth[argument] = values[key]
            evaluators.append(evaluator)
    return truth, read_coco_panoptic, tuple(evaluators)


def _semantic_parts(values: Mapping[str, Any]) -> _Parts:
    suffixes = {key: values[key] for key in ("image_suffix", "label_suffix") if key in values}
    return {"labels": values["annotations"]}, partial(read_semantic, **suffixes), ("semantic",)


def _instance_parts(values: Mapping[str, Any]) -> _Parts:
    return {"annotations": values["annotations"]}, read_coco_instances, ("instance",)


_PARTS: Mapping[Kind, Callable[[Mapping[str, Any]], _Parts]] = {
    "panoptic": _panoptic_parts,
    "semantic": _semantic_parts,
    "instance": _instance_parts,
}

for name, reader in OWN_READERS.items():
    register("dataset_reader", name)(reader)
