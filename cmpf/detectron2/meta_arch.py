# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The meta-architecture "CMPF" for Detectron2: CMPF's model with Detectron2's formats of samples and results."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from cmpf import model as native_model
from cmpf import weights
from cmpf.data import Vocabulary
from cmpf.detectron2.conversion import to_detectron2, to_samples
from cmpf.detectron2.datasets import VOCABULARY_KEY, vocabulary_of
from cmpf.detectron2.registries import bridged
from cmpf.engine.seeding import preserved_rng
from cmpf.errors import VocabularyError
from cmpf.factory.model import build_network
from cmpf.inference import InferenceSettings
from cmpf.model import CLIP_PREFIX, FROZEN_PREFIX

PARTS = tuple(inspect.signature(native_model.CMPF).parameters)


class CMPF(native_model.CMPF):
    """The model that `detectron2.modeling.build_model(cfg)` builds for MODEL.META_ARCHITECTURE CMPF.

    Network, losses and inference are those of cmpf.model.CMPF. Samples and results have Detectron2's formats, and the
    state dict contains only trained weights, not the frozen encoders. `load_state_dict` also accepts published names,
    and raises WeightsError if trained weights are missing, so that no checkpointer silently leaves parts of the decoder
    at their random initialization.

    Args:
        cfg: Detectron2's configuration with CMPF's keys, as the only argument. MODEL.WEIGHTS is left to a
            checkpointer, as in Detectron2's own models. Alternatively, e.g. in a LazyConfig, the following arguments:
        parts: arguments of cmpf.model.CMPF.
        bgr: whether images are in BGR order.
        void_embedding: None = a new one.
        vocabularies: returns the vocabulary of a dataset that a batch names.
    """

    @configurable  # type: ignore[untyped-decorator]
    def __init__(
        self,
        *,
        bgr: bool = False,
        void_embedding: nn.Embedding | None = None,
        vocabularies: Callable[[str], Vocabulary] = vocabulary_of,
        **parts: Any,
    ) -> None:
        # The constructor initializes a void embedding of its own, which would shift all later random numbers compared
        # with the native engine.
        with preserved_rng() if void_embedding is not None else nullcontext():
            super().__init__(**parts)
        self.void_embedding = void_embedding or self.void_embedding
        self.bgr = bgr
        self._dataset_words = vocabularies
        self.register_state_dict_post_hook(_remove_frozen)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_load_any_naming)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_ignore_missing_frozen)  # type: ignore[no-untyped-call]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The constructor's arguments for a configuration."""
        with bridged(cfg) as native:
            network = build_network(native, vocabulary_of(native.DATASETS.TRAIN[0], cfg=native))
        return {
            **{name: getattr(network, name) for name in PARTS},
            "void_embedding": network.void_embedding,
            "bgr": cfg.INPUT.FORMAT == "BGR",
            "vocabularies": partial(vocabulary_of, cfg=native),
        }

    def forward(  # type: ignore[override]  # results in Detectron2's classes
        self,
        batch: Sequence[Mapping[str, Any]],
        vocabulary: Vocabulary | None = None,
        settings: InferenceSettings | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Any]]:
        """Losses in training mode, otherwise one result per image.

        Args:
            batch: one dict per image, see `cmpf.detectron2.conversion.to_samples`. In inference its key `vocabulary`
                names the dataset whose classes are used; samples of CMPF's registered datasets have it.
            vocabulary: the vocabulary; None = that of the batch, or else the training vocabulary.
            settings: overrides the model's settings for this call.
        """
        samples = to_samples(batch, bgr=self.bgr, classes=self.train_vocabulary)
        if self.training:
            return self.losses(samples)
        results = self.infer(samples, vocabulary or self.vocabulary_of_batch(batch), settings)
        return [to_detectron2(result) for result in results]

    def vocabulary_of_batch(self, batch: Sequence[Mapping[str, Any]]) -> Vocabulary | None:
        """The vocabulary of the dataset that the samples name; None if they name none.

        Raises:
            VocabularyError: they name several datasets.
        """
        names = {sample.get(VOCABULARY_KEY) for sample in batch}
        if len(names) > 1:
            raise VocabularyError(
                f"a batch with samples of {' and '.join(sorted(map(str, names)))}: all samples of a batch are searched "
                "for the same classes; give them in batches of their own"
            )
        name = next(iter(names), None)
        return None if name is None else self._dataset_words(name)


class FrozenSeg(CMPF):
    """CMPF under the name in FrozenSeg's YAML files."""


class FCCLIP(CMPF):
    """CMPF under the name in FC-CLIP's YAML files, which need MODEL.CMPF.SAM.NAME "" and no injectors."""


for _architecture in (CMPF, FrozenSeg, FCCLIP):
    if _architecture.__name__ not in META_ARCH_REGISTRY:  # the original projects may have registered theirs
        META_ARCH_REGISTRY.register(_architecture)


def _load_any_naming(module: CMPF, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Loads a state dict of any known naming, including frozen encoders; leaves the module's own names in `state`.

    Raises:
        WeightsError: trained weights are missing or have another shape.
    """
    given = {name: state.pop(name) for name in list(state) if name.startswith(prefix)}
    # The checkpointer reports unused weights.
    report = weights.load(module, {n.removeprefix(prefix): v for n, v in given.items()}, allow_unused=True)
    state.update({prefix + name: value.detach() for name, value in module.trained_state_dict().items()})
    state.update(
        {prefix + name: given[prefix + name] for name in report.unexpected if prefix + name in given}
    )


def _is_stored(module: CMPF, name: str) -> bool:
    """Whether checkpoints contain a weight (it is not frozen); DistributedDataParallel may have prefixed its name."""
    stored = (CLIP_PREFIX,) if module.encoders.clip.tuned else ()
    _, frozen, rest = f".{name}".partition(f".{FROZEN_PREFIX}")
    return not frozen or f"{FROZEN_PREFIX}{rest}".startswith(stored)


def _remove_frozen(module: CMPF, state: dict[str, Any], prefix: str, metadata: object) -> None:
    for name in [name for name in state if name.startswith(prefix) and not _is_stored(module, name)]:
        del state[name]


def _ignore_missing_frozen(module: CMPF, incompatible: Any) -> None:
    missing = incompatible.missing_keys
    missing[:] = [name for name in missing if _is_stored(module, name)]
