# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Saves a model to a folder with a model card (README.md): model, data, recipe, metrics and licenses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from cmpf.config import Config
from cmpf.data import Vocabulary, get_spec
from cmpf.encoders.tiny import CLIP_NAME, SAM_NAME
from cmpf.errors import first_few
from cmpf.evaluation import Protocols, Results, format_results, parse_results, read_results
from cmpf.factory.encoders import mask_sam
from cmpf.factory.model import evaluation_size
from cmpf.model import CMPF
from cmpf.registry import plugin_files
from cmpf.weights.hub import save_folder
from cmpf.weights.saving import PLUGINS_KEY, Metrics
from cmpf.weights.zoo_entries import METHODS

OPENCLIP = "https://github.com/mlfoundations/open_clip"
META = "https://github.com/facebookresearch/segment-anything"
UNKNOWN = "see its authors"
MAX_CLASSES = 60  # listed in the card
USE = """import cmpf

seg = cmpf.load("{place}")
out = seg.predict("image.jpg", [{words}])
out.plot().save("overlay.png")"""


def model_card(
    cfg: Config,
    *,
    vocabulary: Vocabulary,
    title: str,
    parameters: int,
    metrics: str | Path | Metrics | None,
    license: str,
    notes: str,
) -> str:
    """The model card as Markdown, with the YAML header that the Hugging Face Hub reads.

    Args:
        cfg: the model's configuration.
        vocabulary: classes that the model was trained on.
        title: heading of the card, and the model's name in the code example.
        parameters: number of trained parameters.
        metrics: percent by dataset, task and metric, or the results.json of an evaluation; None = not measured.
        license: license of the trained weights by its Hub name, e.g. "apache-2.0"; "" = not stated.
        notes: Markdown text of a last section; "" = none.
    Raises:
        EvaluationError: the metrics cannot be read.
    """
    head = [
        "---",
        "library_name: cmpf",
        "pipeline_tag: image-segmentation",
        "tags: [open-vocabulary, panoptic-segmentation, semantic-segmentation, instance-segmentation]",
        *([f"license: {license}"] if license else []),
        "---",
    ]
    words = ", ".join(json.dumps(name, ensure_ascii=False) for name in vocabulary.names[:2])
    sections = {
        "Use": f"```python\n{USE.format(place=title, words=words)}\n```",
        "Model": _model(cfg, parameters),
        "Data": _data(cfg, vocabulary),
        "Recipe": _recipe(cfg),
        "Metrics": _metrics(metrics),
        "Licenses": _licenses(cfg, license),
        "Citing": "\n".join(["```bibtex", *(METHODS[name].citation for name in _methods(cfg)), "```"]),
        **({"Notes": notes.strip()} if notes.strip() else {}),
    }
    body = [f"## {name}\n{text}" for name, text in sections.items()]
    return "\n".join(head) + f"\n# {title}\n\n" + "\n\n".join(body) + "\n"


def _methods(cfg: Config) -> list[str]:
    """Published methods to cite: CMPF, FC-CLIP (the decoder), and those of enabled parts."""
    ours = cfg.MODEL.CMPF
    optional = {
        "mask_adapter": ours.MASK_EMBEDDING == "mask_adapter",
        "maftp": ours.TEXT_TRANSFER == "content_dependent",
        "ovrcoat": cfg.MODEL.MASK_FORMER.TEST.CLIP_OBJECTNESS > 0,
    }
    return ["cmpf", "fcclip", *(name for name, used in optional.items() if used)]


def _model(cfg: Config, parameters: int) -> str:
    ours = cfg.MODEL.CMPF
    enabled_parts = [
        name
        for name, enabled in (
            ("Query Injector", ours.QUERY_INJECTOR.ENABLED),
            ("Feature Injector", ours.FEATURE_INJECTOR.ENABLED),
            ("OpenSeg Ensemble", cfg.TEST.ENSEMBLE.ENABLED),
            ("Mask-Adapter", ours.MASK_EMBEDDING == "mask_adapter"),
            ("transfer of the text (MAFT+)", ours.TEXT_TRANSFER == "content_dependent"),
        )
        if enabled
    ]
    lines = [
        "A CMPF model for open-vocabulary segmentation. "
        + (
            f"Its decoder and the trunk of its CLIP were trained; with that CLIP it has {parameters:,} parameters."
            if ours.CLIP.TRAINED == "trunk"
            else f"Its decoder of {parameters:,} parameters was trained; its encoders are frozen, and not in this "
            "folder: CMPF gets them from their authors."
        ),
        "",
        f"- CLIP: OpenCLIP `{ours.CLIP.NAME}`, weights `{ours.CLIP.PRETRAINED or 'random'}`",
        f"- SAM: {_sam(ours.SAM.NAME, ours.SAM.CHECKPOINT)}",
        f"- SAM's masks for the ensemble: {_sam(*mask_sam(cfg)) if cfg.TEST.ENSEMBLE.ENABLED else 'none'}",
        f"- switched on: {', '.join(enabled_parts) or 'neither injector nor ensemble'}",
        "- images: shorter side {}, longer side at most {} pixels".format(*evaluation_size(cfg)),
    ]
    return "\n".join(lines)


def _sam(name: str, checkpoint: str) -> str:
    return f"`{name}`, weights `{checkpoint or 'published'}`" if name else "none"


def _data(cfg: Config, vocabulary: Vocabulary) -> str:
    things = sum(vocabulary.is_thing)
    spec = get_spec(cfg.DATASETS.TRAIN[0])
    return (
        f"Trained on `{spec.name}` ({spec.kind}): {vocabulary.num_classes} classes, {things} things and "
        f"{vocabulary.num_classes - things} kinds of stuff. These are the seen classes, all other words are unseen: "
        f"{first_few(vocabulary.names, MAX_CLASSES)}."
    )


def _recipe(cfg: Config) -> str:
    solver = cfg.SOLVER
    return (
        f"As in `config.yaml`: {solver.MAX_ITER:,} iterations of {solver.IMS_PER_BATCH} images, AdamW with learning "
        f"rate {solver.BASE_LR:g} and weight decay {solver.WEIGHT_DECAY:g}, schedule {solver.LR_SCHEDULER_NAME}, seed "
        f"{cfg.SEED}."
    )


def _metrics(metrics: str | Path | Metrics | None) -> str:
    if metrics is None:
        return "Not measured."
    results, protocols = _read(metrics)
    return f"In percent.\n\n{format_results(results, protocols=protocols, markdown=True).strip()}"


def _read(metrics: str | Path | Metrics) -> tuple[Mapping[str, Results], Protocols]:
    """Results, with NaN for undefined values (null in the file), and their protocols."""
    if isinstance(metrics, str | Path):
        return read_results(metrics)
    return parse_results(metrics, source="metrics")


def _licenses(cfg: Config, license: str) -> str:
    ours = cfg.MODEL.CMPF
    rows = [
        ("code (CMPF)", "Apache-2.0"),
        ("trained weights in this folder", license or "not said by who saved them"),
        (f"CLIP `{ours.CLIP.NAME}`", _clip_license(ours.CLIP.NAME)),
    ]
    sams = [ours.SAM.NAME, mask_sam(cfg)[0] if cfg.TEST.ENSEMBLE.ENABLED else ""]
    rows += [(f"SAM `{name}`", _sam_license(name)) for name in dict.fromkeys(sams) if name]
    return "\n".join(["| part | license |", "|---|---|", *(f"| {part} | {text} |" for part, text in rows)])


def _clip_license(name: str) -> str:
    if name == CLIP_NAME:
        return "Apache-2.0, part of CMPF"
    return f"MIT for OpenCLIP's code and its own weights ({OPENCLIP}); other weights: {UNKNOWN}"


def _sam_license(name: str) -> str:
    if name == SAM_NAME:
        return "Apache-2.0, part of CMPF"
    if name == "vit_t":
        return "Apache-2.0 (https://github.com/ChaoningZhang/MobileSAM)"
    return f"Apache-2.0 ({META})"


def save_pretrained(
    cfg: Config,
    model: CMPF,
    folder: Path,
    *,
    title: str,
    metrics: str | Path | Metrics | None,
    license: str,
    notes: str,
) -> list[Path]:
    """See Predictor.save_pretrained.

    Args:
        cfg: the configuration that the model was built from.
    """
    title = title or folder.absolute().name
    trained = model.trained_state_dict()
    card = model_card(  # comes first: nothing is written if the metrics cannot be read
        cfg,
        vocabulary=model.train_vocabulary,
        title=title,
        parameters=sum(parameter.numel() for parameter in trained.values()),
        metrics=metrics,
        license=license,
        notes=notes,
    )
    plugins = {name: Path(file).name for name, file in plugin_files(cfg.MODEL.CMPF.PLUGINS).items()}
    metadata = {PLUGINS_KEY: plugins} if plugins else {}
    return save_folder(cfg, model, folder, vocabulary=model.train_vocabulary, card=card, metadata=metadata)
