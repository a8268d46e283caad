# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Reads and validates the model zoo (configs/model_zoo.yaml); describes the published methods in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Ge, Gt, Le, MinLen
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from cmpf.common.files import load_yaml, read_yaml_text
from cmpf.config import config_root
from cmpf.config.keys import Issue, Origin, as_error
from cmpf.errors import ConfigError, ModelNameError

ZOO_FILE = "model_zoo.yaml"
_Text = Annotated[str, MinLen(1)]
_Address = Annotated[str, StringConstraints(pattern=r"^https?://\S+/[^/\s]+$")]
_File = Annotated[str, StringConstraints(pattern=r"^[\w.-]+$")]
_Drive = Annotated[str, StringConstraints(pattern=r"^[\w-]{20,}$")]
_Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
_Metric = Annotated[str, StringConstraints(pattern=r"^\w+/\w+$")]
_Figures = Annotated[dict[_Metric, Annotated[float, Ge(0), Le(100)]], MinLen(1)]


@dataclass(frozen=True)
class Method:
    """A published method.

    Attributes:
        title: its usual name.
        adds: a short description, or what it adds to FC-CLIP.
        page: the authors' page.
        citation: BibTeX.
    """

    title: str
    adds: str
    page: str
    citation: str


_CMPF = """@article{cmpf2026,
  title   = {{CMPF}},
  journal = {International Journal of Computer Vision},
  volume  = {134},
  number  = {6},
  pages   = {296},
  year    = {2026},
  note    = {full title and authors: see the journal}
}
@article{chen2024frozenseg,
  title   = {{FrozenSeg}: Harmonizing Frozen Foundation Models for Open-Vocabulary Segmentation},
  author  = {Chen, Xi and Yang, Haosen and Jin, Sheng and Zhu, Xiatian and Yao, Hongxun},
  journal = {arXiv preprint arXiv:2409.03525},
  year    = {2024}
}"""
_FCCLIP = """@inproceedings{yu2023fcclip,
  title     = {Convolutions Die Hard: Open-Vocabulary Segmentation with Single Frozen Convolutional {CLIP}},
  author    = {Yu, Qihang and He, Ju and Deng, Xueqing and Shen, Xiaohui and Chen, Liang-Chieh},
  booktitle = {NeurIPS},
  year      = {2023},
  note      = {arXiv:2308.02487}
}"""
_COCONUT = """@inproceedings{deng2024coconut,
  title     = {{COCONut}: Modernizing {COCO} Segmentation},
  author    = {Deng, Xueqing and Yu, Qihang and Wang, Peng and Shen, Xiaohui and Chen, Liang-Chieh},
  booktitle = {CVPR},
  year      = {2024}
}"""
_MASK_ADAPTER = """@inproceedings{li2025maskadapter,
  title     = {{Mask-Adapter}: The Devil is in the Masks for Open-Vocabulary Segmentation},
  author    = {Li, Yongkang and Cheng, Tianheng and Feng, Bin and Liu, Wenyu and Wang, Xinggang},
  booktitle = {CVPR},
  year      = {2025}
}"""
_MAFTP = """@inproceedings{jiao2024maftplus,
  title     = {Collaborative Vision-Text Representation Optimizing for Open-Vocabulary Segmentation},
  author    = {Jiao, Siyu and Zhu, Hongguang and Huang, Jiannan and Zhao, Yao and Wei, Yunchao and Shi, Humphrey},
  booktitle = {ECCV},
  year      = {2024}
}"""
_OVRCOAT = """@inproceedings{ovrcoat2026,
  title     = {{OVRCOAT}},
  booktitle = {CVPR},
  year      = {2026},
  note      = {arXiv:2603.21386; full title and authors: see there}
}"""

METHODS = {
    "cmpf": Method(
        "CMPF",
        "FrozenSeg: two injectors and an ensemble add SAM's precise boundaries",
        "https://github.com/chenxi52/CMPF",
        _CMPF,
    ),
    "fcclip": Method(
        "FC-CLIP",
        "the base of the others: a single frozen CLIP and a decoder",
        "https://github.com/bytedance/fc-clip",
        _FCCLIP,
    ),
    "fcclip_coconut": Method(
        "FC-CLIP",
        "trained on COCO with the refined labels of COCONut",
        "https://github.com/bytedance/coconut_cvpr2024",
        f"{_FCCLIP}\n{_COCONUT}",
    ),
    "mask_adapter": Method(
        "Mask-Adapter",
        "learned pooling maps instead of the mean inside a mask",
        "https://github.com/hustvl/MaskAdapter",
        f"{_MASK_ADAPTER}\n{_FCCLIP}",
    ),
    "maftp": Method(
        "MAFT+",
        "a tuned CLIP, and text embeddings that attend to the image",
        "https://github.com/jiaosiyu1999/MAFT-Plus",
        _MAFTP,
    ),
    "ovrcoat": Method(
        "OVRCOAT",
        "a tuned CLIP, whose confidence in a mask lowers its void probability",
        "https://github.com/nickormushev/OVRCOAT",
        f"{_OVRCOAT}\n{_FCCLIP}",
    ),
}


class ZooEntry(BaseModel):
    """One trained model. Only `config` is required."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    config: _Text = Field(description="the path of a config under configs/")
    overrides: dict[str, Any] = Field(
        {}, description="KEY: VALUE pairs of the configuration that its weights need"
    )
    method: str = Field("", description=f"one of {', '.join(METHODS)}")
    best: str = Field("", description="what it is best at, in a few words")
    asset: _Text = Field("", description="the name of a file in cmpf/assets")
    url: _Address = Field("", description="the https:// address of a file")
    drive: _Drive = Field("", description="the id of a file of Google Drive")
    file: _File = Field("", description="the name of the file, as its authors call it")
    sha256: _Hash = Field("", description="64 hexadecimal digits")
    size: Annotated[int, Gt(0)] = Field(0, description="bytes of the file, as its authors state them")
    license: _Text = Field("", description="the license of the weights")
    disk: Annotated[int, Gt(0)] = Field(
        0, description="megabytes of the weights and frozen encoders together"
    )
    speed: Literal["", "fast", "medium", "slow"] = Field("", description="fast, medium or slow")
    published: dict[str, _Figures] = Field(
        {}, description="dataset: {task/metric: percent}, as the authors report"
    )
    with_ensemble: dict[str, _Figures] = Field(
        {}, description="dataset: {task/metric: percent}, as the authors report with the OpenSeg Ensemble"
    )


def zoo(path: str | Path | None = None) -> dict[str, ZooEntry]:
    """All entries by name, in the order of the file.

    Args:
        path: another file of the same format; None = configs/model_zoo.yaml.
    Raises:
        ConfigError: the file is invalid; the message lists every issue.
    """
    path = Path(path) if path is not None else config_root() / ZOO_FILE
    return dict(_parse(path, path.stat().st_mtime_ns if path.is_file() else 0))


@lru_cache(maxsize=4)
def _parse(path: Path, modified: int) -> dict[str, ZooEntry]:
    """The entries of a file; the modification time is a key of the cache."""
    content = _read(path)
    issues = [Issue(key, message, Origin(path)) for key, message in _issues(content)]
    if issues:
        raise as_error(issues)
    return {name: ZooEntry(**_without_null(entry)) for name, entry in content.items()}


def zoo_entry(name: str) -> ZooEntry:
    """The entry of a name.

    Raises:
        ModelNameError: there is no such entry.
    """
    entries = zoo()
    if name not in entries:
        raise ModelNameError(f"the zoo has no model {name!r}. It has {', '.join(entries)}")
    return entries[name]


def _read(path: Path) -> Any:
    try:
        return load_yaml(read_yaml_text(path))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"the model zoo {path} cannot be read: {reason}") from error


def _issues(content: object) -> Iterator[tuple[str, str]]:
    """Yields the issues of a zoo file as (key, message)."""
    if not isinstance(content, dict) or not content:
        yield "", "expected NAME: {config: ..., ...} entries"
        return
    for name, entry in content.items():
        if isinstance(entry, dict):
            yield from ((f"{name}.{key}", message) for key, message in _entry_issues(_without_null(entry)))
        else:
            yield str(name), f"expected config and weights, got {entry!r}"


def _without_null(entry: dict[Any, Any]) -> dict[str, Any]:
    """An entry without the keys whose value is null, which count as absent."""
    return {str(key): value for key, value in entry.items() if value is not None}


def _entry_issues(entry: dict[str, Any]) -> Iterator[tuple[str, str]]:
    try:
        ZooEntry.model_validate(entry)
    except ValidationError as error:
        for detail in error.errors():
            keys = [str(key) for key in detail["loc"] if key != "[key]"]
            yield ".".join(keys), _message(keys, detail["type"], detail["input"])
    if entry.get("method", "cmpf") not in METHODS:
        yield "method", f"expected one of {', '.join(METHODS)}, got {entry['method']!r}"
    if not entry.keys() & {"asset", "url", "drive"}:
        yield "drive", "is missing: asset, url or drive says where the weights are"


def _message(keys: list[str], error_type: str, value: object) -> str:
    descriptions = {name: field.description for name, field in ZooEntry.model_fields.items()}
    if error_type == "missing":
        return "is missing"
    if error_type == "extra_forbidden":
        near = get_close_matches(keys[0], descriptions, n=1)
        return (
            f"unknown, did you mean {near[0]}?" if near else f"unknown, known are {', '.join(descriptions)}"
        )
    if len(keys) == 1:
        expected = descriptions[keys[0]]
    else:
        expected = ("task/metric: percent", "task/metric: 0 to 100")[len(keys) - 2]
    return f"expected {expected}, got {value!r}"
