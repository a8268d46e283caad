# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The meta-architecture "CMPF" of Detectron2: CMPF's model with Detectron2's samples and results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from cmpf import model as native_model
from cmpf.data import Vocabulary
from cmpf.detectron2.config import native_config
from cmpf.detectron2.conversion import to_detectron2, to_samples
from cmpf.detectron2.datasets import VOCABULARY_KEY, vocabulary_of
from cmpf.engine.seeding import preserved_rng
from cmpf.errors import VocabularyError
from cmpf.factory.model import build_network
from cmpf.inference import InferenceSettings
from cmpf.model import FROZEN_PREFIX


class CMPF(native_model.CMPF):
    """What `detectron2.modeling.build_model(cfg)` gives for MODEL.META_ARCHITECTURE CMPF.

    The network, its losses and its inference are those of cmpf.model.CMPF; what differs is the form of samples and
    results, and the state dict, which leaves the frozen encoders out: a checkpoint holds what was trained.

    Args:
        cfg: of Detectron2, after cmpf.detectron2.add_cmpf_config. MODEL.WEIGHTS is left to a checkpointer, as in
            Detectron2's own models.
    """

    def __init__(self, cfg: CfgNode) -> None:
        native = native_config(cfg)
        parts = build_network(native, vocabulary_of(native.DATASETS.TRAIN[0]))
        # The constructor draws a void embedding of its own; with it every later random number would be another than
        # in the native engine.
        with preserved_rng():
            super().__init__(
                encoders=parts.encoders,
                pixel_decoder=parts.pixel_decoder,
                sam_branch=parts.sam_branch,
                decoder=parts.decoder,
                criterion=parts.criterion,
                train_vocabulary=parts.train_vocabulary,
                settings=parts.settings,
                text_cache=parts.text_cache,
                class_ensemble=parts.class_ensemble,
                mask_ensemble=parts.mask_ensemble,
            )
        self.void_embedding = parts.void_embedding
        self.bgr = cfg.INPUT.FORMAT == "BGR"
        self.register_state_dict_post_hook(_leave_frozen_out)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_do_not_miss_frozen)  # type: ignore[no-untyped-call]

    def forward(  # type: ignore[override]  # results in Detectron2's classes
        self,
        batch: Sequence[Mapping[str, Any]],
        vocabulary: Vocabulary | None = None,
        settings: InferenceSettings | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses in training mode, one result an image otherwise.

        Args:
            batch: one dict an image, see `cmpf.detectron2.conversion.to_samples`. In inference `vocabulary` in it
                names the dataset whose classes are looked for; samples of registered datasets of CMPF have it.
            vocabulary: the classes to look for; None = as the batch says, or else the training vocabulary.
            settings: overrides the model's own settings for this call.
        """
        samples = to_samples(batch, bgr=self.bgr, classes=self.train_vocabulary)
        if self.training:
            return self.losses(samples)
        results = self.infer(samples, vocabulary or _vocabulary_of_batch(batch), settings)
        return [to_detectron2(result) for result in results]


META_ARCH_REGISTRY.register(CMPF)


def _vocabulary_of_batch(batch: Sequence[Mapping[str, Any]]) -> Vocabulary | None:
    names = {sample.get(VOCABULARY_KEY) for sample in batch}
    if len(names) > 1:
        raise VocabularyError(
            f"a batch with samples of {' and '.join(sorted(map(str, names)))}: all samples of a batch are searched for "
            "the same classes; give them in batches of their own"
        )
    name = next(iter(names), None)
    return None if name is None else vocabulary_of(name)


def _is_frozen(name: str) -> bool:
    return f".{FROZEN_PREFIX}" in f".{name}"  # DistributedDataParallel puts its own name in front


def _leave_frozen_out(module: nn.Module, state: dict[str, Any], prefix: str, metadata: object) -> None:
    for name in [name for name in state if name.startswith(prefix + FROZEN_PREFIX)]:
        del state[name]


def _do_not_miss_frozen(module: nn.Module, incompatible: Any) -> None:
    missing = incompatible.missing_keys
    missing[:] = [name for name in missing if not _is_frozen(name)]
