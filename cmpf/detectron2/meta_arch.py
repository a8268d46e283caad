# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""The meta-architecture "CMPF" of Detectron2: CMPF's model with Detectron2's samples and results."""

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
    """What `detectron2.modeling.build_model(cfg)` gives for MODEL.META_ARCHITECTURE CMPF.

    The network, its losses and its inference are those of cmpf.model.CMPF; what differs is the form of samples and
    results, and the state dict, which leaves the frozen encoders out: a checkpoint holds what was trained.
    `load_state_dict` takes it, and the published models' names, and raises WeightsError where a part of what is trained
    is missing: no checkpointer can leave half of a decoder at its random numbers without a word.

    Args, as everywhere in Detectron2 either one configuration:
        cfg: of Detectron2, after cmpf.detectron2.add_cmpf_config. MODEL.WEIGHTS is left to a checkpointer, as in
            Detectron2's own models.
    or parts, as of a LazyConfig:
        parts: those of cmpf.model.CMPF.
        bgr: images come in the order blue, green, red.
        void_embedding: None = a new one.
        vocabularies: gives the classes of a dataset that a batch names.
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
        # The constructor draws a void embedding of its own; with it every later random number would be another than
        # in the native engine.
        with preserved_rng() if void_embedding is not None else nullcontext():
            super().__init__(**parts)
        self.void_embedding = void_embedding or self.void_embedding
        self.bgr = bgr
        self._dataset_words = vocabularies
        self.register_state_dict_post_hook(_leave_frozen_out)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_take_any_names)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_post_hook(_do_not_miss_frozen)  # type: ignore[no-untyped-call]

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """The parts that a configuration asks for."""
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
        """Losses in training mode, one result per image otherwise.

        Args:
            batch: one dict per image, see `cmpf.detectron2.conversion.to_samples`. In inference `vocabulary` in it
                names the dataset whose classes are looked for; samples of registered datasets of CMPF have it.
            vocabulary: the classes to look for; None = as the batch says, or else the training vocabulary.
            settings: overrides the model's own settings for this call.
        """
        samples = to_samples(batch, bgr=self.bgr, classes=self.train_vocabulary)
        if self.training:
            return self.losses(samples)
        results = self.infer(samples, vocabulary or self.vocabulary_of_batch(batch), settings)
        return [to_detectron2(result) for result in results]

    def vocabulary_of_batch(self, batch: Sequence[Mapping[str, Any]]) -> Vocabulary | None:
        """The classes of the dataset that the samples name, as the configuration asks for; None where they name none.

        Raises:
            VocabularyError: they name several.
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
    """The same, under the name in YAML files of FrozenSeg."""


class FCCLIP(CMPF):
    """The same, under the name in YAML files of FC-CLIP; MODEL.CMPF.SAM.NAME "" and no injectors make it one."""


for _architecture in (CMPF, FrozenSeg, FCCLIP):
    if _architecture.__name__ not in META_ARCH_REGISTRY:  # a program may have brought the original
        META_ARCH_REGISTRY.register(_architecture)


def _take_any_names(module: CMPF, state: dict[str, Any], prefix: str, *_: object) -> None:
    """Loads a state dict of any known naming, frozen encoders included, and leaves the module's own names for torch.

    Raises:
        WeightsError: weights that are trained are missing or of another shape.
    """
    given = {name: state.pop(name) for name in list(state) if name.startswith(prefix)}
    # What is of no use is the checkpointer's matter, which has a word for it.
    report = weights.load(module, {n.removeprefix(prefix): v for n, v in given.items()}, allow_unused=True)
    state.update({prefix + name: value.detach() for name, value in module.trained_state_dict().items()})
    state.update(
        {prefix + name: given[prefix + name] for name in report.unexpected if prefix + name in given}
    )


def _is_stored(module: CMPF, name: str) -> bool:
    """Whether a checkpoint holds a weight: all but frozen encoders. DistributedDataParallel puts its own name first."""
    stored = (CLIP_PREFIX,) if module.encoders.clip.tuned else ()
    _, frozen, rest = f".{name}".partition(f".{FROZEN_PREFIX}")
    return not frozen or f"{FROZEN_PREFIX}{rest}".startswith(stored)


def _leave_frozen_out(module: CMPF, state: dict[str, Any], prefix: str, metadata: object) -> None:
    for name in [name for name in state if name.startswith(prefix) and not _is_stored(module, name)]:
        del state[name]


def _do_not_miss_frozen(module: CMPF, incompatible: Any) -> None:
    missing = incompatible.missing_keys
    missing[:] = [name for name in missing if _is_stored(module, name)]
