# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""CMPF, the meta-architecture (paper, Fig. 2).

Images -> frozen CLIP and SAM features -> pixel decoder and SAM branch -> transformer decoder -> losses, or class
ensemble -> mask ensemble -> results.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.profiler import record_function

from cmpf.clip_tuning import ClipTuning, adapter_losses
from cmpf.common.tensors import EvaluationMode, device_constant
from cmpf.data.vocabulary import Vocabulary
from cmpf.encoders.frozen import FrozenModule
from cmpf.encoders.pair import FrozenEncoders
from cmpf.encoders.sam_proposals import Proposals
from cmpf.encoders.text import EmbeddingCache, TextCache, embed_vocabulary
from cmpf.errors import TrainingError
from cmpf.inference import InferenceSettings, geometric_ensemble, openseg_ensemble
from cmpf.inference.mask_naming import MaskNaming
from cmpf.inference.mask_proposals import sam_evidence, with_proposals
from cmpf.inference.pipeline import image_results
from cmpf.inference.settings import ImageGeometry, Request, SAMEvidence
from cmpf.losses import AdapterCriterion, SetCriterion
from cmpf.losses.criterion import Normalizers, padded_targets
from cmpf.modeling.pixel_decoder import PixelDecoder
from cmpf.modeling.sam_branch import SAMBranch
from cmpf.modeling.transformer_decoder import TransformerDecoder
from cmpf.types import ClassEmbeddings, DecoderOutput, FrozenFeatures, ModelResult, Sample

FROZEN_PREFIX = "encoders."
CLIP_PREFIX = "encoders.clip.model."  # prefix of OpenCLIP's parameter names


class CMPF(nn.Module):
    """Open-vocabulary segmentation with frozen CLIP and SAM (paper, Sec. 3).

    Args:
        encoders: frozen CLIP and SAM.
        pixel_decoder, sam_branch, decoder: the trained modules; sam_branch is None without Feature Injector.
        criterion: losses of the decoder or of Mask-Adapter; None in a model for inference only.
        train_vocabulary: classes of the training labels; "seen" classes are those in it.
        settings: default settings of inference. text_cache: disk cache of text embeddings; None = no cache.
        naming: mask classification by CLIP; None = mask pooling and unchanged text embeddings. tuning: its losses.
        class_ensemble, mask_ensemble: fusion of class probabilities and use of SAM's masks, with the signatures of the
            defaults.
        num_proposals: number of proposal queries, the decoder's queries that are initialized from SAM's masks.
    """

    def __init__(
        self,
        *,
        encoders: FrozenEncoders,
        pixel_decoder: PixelDecoder,
        sam_branch: SAMBranch | None,
        decoder: TransformerDecoder,
        criterion: SetCriterion | AdapterCriterion | None,
        train_vocabulary: Vocabulary,
        settings: InferenceSettings,
        text_cache: TextCache | None,
        naming: MaskNaming | None = None,
        tuning: ClipTuning | None = None,
        class_ensemble: Callable[..., Tensor] = geometric_ensemble,
        mask_ensemble: Callable[..., tuple[Tensor, Tensor]] = openseg_ensemble,
        num_proposals: int = 0,
    ) -> None:
        super().__init__()
        self.encoders = encoders
        self.pixel_decoder = pixel_decoder
        self.sam_branch = sam_branch
        self.decoder = decoder
        self.naming, self.tuning = naming or MaskNaming(), tuning or ClipTuning()
        self.criterion = criterion
        self.void_embedding = nn.Embedding(1, encoders.clip.embed_dim)
        self.train_vocabulary = train_vocabulary
        self.settings = settings
        self.text_cache = text_cache
        self.class_ensemble, self.mask_ensemble = class_ensemble, mask_ensemble
        self.num_proposals = num_proposals
        self._embeddings = EmbeddingCache()
        self._evaluation = EvaluationMode()

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self.encoders.device

    def forward(
        self,
        batch: Sequence[Sample],
        vocabulary: Vocabulary | None = None,
        settings: InferenceSettings | None = None,
    ) -> dict[str, Tensor] | list[ModelResult]:
        """Returns losses in training mode (see `losses`), else one result per image (see `infer`)."""
        if self.training:
            return self.losses(batch)
        return self.infer(batch, vocabulary, settings)

    def losses(self, batch: Sequence[Sample], normalizers: Normalizers | None = None) -> dict[str, Tensor]:
        """Weighted losses of every head over the training vocabulary.

        Args:
            batch: samples with `image` and `targets`.
            normalizers: normalizers of the full batch if this is a part of it; see SetCriterion.forward.
        Raises:
            TrainingError: the model was built without a criterion, or a matching cost is not finite.
        """
        if self.criterion is None:
            raise TrainingError("this model was built without losses; build it with cmpf.factory.build_model")
        with record_function("frozen encoders"):
            images, sizes = self.encoders.images(batch)
            features = self.encoders.features(batch, images, with_sam=self.decoder.uses_sam)
        if self.num_proposals:
            masks = self.encoders.masks(batch, features, exact=False)
            features = with_proposals(features, masks, self.num_proposals, sizes)
        classes = self.class_embeddings(self.train_vocabulary)
        targets = [padded_targets(sample["targets"], like=images) for sample in batch]
        if isinstance(self.criterion, AdapterCriterion):
            with torch.no_grad():
                predicted = self.decode(features, classes)["pred_masks"] if self.criterion.mixed else None
            return adapter_losses(
                self.criterion,
                self.naming,
                self.encoders.clip,
                features,
                self._with_void(classes),
                targets,
                predicted_masks=predicted,
                normalizers=normalizers,
            )
        outputs = self.decode(self.tuning.decoder_features(features), classes)
        with record_function("losses"):
            self.tuning.add_clip_logits(outputs, self.naming, self.encoders.clip, features, classes)
            losses: dict[str, Tensor] = self.criterion(outputs, targets, normalizers)
            if self.tuning.has_losses:
                normalizers = normalizers or self.criterion.normalizers(
                    targets, queries=self.decoder.num_queries, device=self.device
                )
                losses |= self.tuning.losses(outputs, features, images, targets, normalizers)
        return losses

    def infer(
        self,
        batch: Sequence[Sample],
        vocabulary: Vocabulary | None = None,
        settings: InferenceSettings | None = None,
    ) -> list[ModelResult]:
        """Computes the results of each image in evaluation mode, whatever mode the model is in, without gradients.

        Args:
            batch: samples with `image` (3, H, W) RGB 0..255; optional `height` and `width`, the size of the results
                (default: the image's own); optional `sam_masks` (M, height, width), logits that replace the proposer's.
            vocabulary: classes to segment; None = the training vocabulary. Its `seen` overrides the model's.
            settings: overrides the model's settings for this call.
        """
        request = self._request(vocabulary or self.train_vocabulary, settings or self.settings)
        with torch.no_grad(), self._evaluation.of(self):
            return self._infer(batch, request)

    def _infer(self, batch: Sequence[Sample], request: Request) -> list[ModelResult]:
        needs_masks = self.num_proposals > 0 or request.settings.reads_sam_masks
        with record_function("frozen encoders"):
            with_sam = self.decoder.uses_sam
            features, padded, sizes = self.encoders(batch, with_sam=with_sam, sam_alone=needs_masks)
        masks = self.encoders.masks(batch, features) if needs_masks else [None] * len(batch)
        if self.num_proposals:
            features = with_proposals(features, masks, self.num_proposals, sizes)
        with record_function("decoder"):
            outputs = self.decode(features, request.classes)
        with record_function("class ensemble"):
            mask_cls = self.classify(outputs, features, request)
        results, dense = [], features.clip.dense
        for index, (sample, unpadded) in enumerate(zip(batch, sizes, strict=True)):
            output = (sample.get("height", unpadded[0]), sample.get("width", unpadded[1]))
            geometry = ImageGeometry(padded=padded, unpadded=unpadded, output=output)
            results.append(
                image_results(
                    mask_cls[index],
                    outputs["pred_masks"][index],
                    geometry=geometry,
                    is_thing=request.is_thing,
                    seen=request.seen,
                    settings=request.settings,
                    sam=self._sam_evidence(masks[index], dense[index : index + 1], geometry, request),
                    mask_ensemble=self.mask_ensemble,
                )
            )
        return results

    def decode(self, features: FrozenFeatures, classes: ClassEmbeddings) -> DecoderOutput:
        """Predicts masks and class logits from encoder features.

        Args:
            features: outputs of both encoders.
            classes: the vocabulary, without void.
        Returns:
            Predictions over K + 1 classes, last column void.
        """
        pixels = self.pixel_decoder(features.clip.levels)
        sam_features = None
        if self.sam_branch is not None and features.sam is not None:
            sam_features = self.sam_branch(features.sam)
        # A decoder of a plug-in need not support proposals.
        optional = {"proposals": features.proposals} if self.num_proposals else {}
        output: DecoderOutput = self.decoder(
            pixels.multi_scale,
            pixels.mask_features,
            self._with_void(classes),
            sam_embedding=features.sam,
            sam_features=sam_features,
            **optional,
        )
        return output

    def classify(self, outputs: DecoderOutput, features: FrozenFeatures, request: Request) -> Tensor:
        """Fused log class distribution of the decoder and CLIP for every mask, (B, Q, K + 1)."""
        clip = self.encoders.clip
        clip_logits, valid = self.naming(clip, features.clip.dense, outputs["pred_masks"], request.classes)
        valid_only = request.settings.ensemble_on_valid_mask or not clip.embeds_empty_masks
        return self.class_ensemble(
            outputs["pred_logits"].float(),
            clip_logits,
            request.seen,
            alpha=request.settings.alpha,
            beta=request.settings.beta,
            valid_BQ=valid if valid_only else None,
            objectness=request.settings.clip_objectness,
        )

    def class_embeddings(self, vocabulary: Vocabulary) -> ClassEmbeddings:
        """Text embeddings of a vocabulary, cached in memory. Thread-safe."""

        def embed() -> ClassEmbeddings:
            return embed_vocabulary(self.encoders.clip, vocabulary.classes, cache=self.text_cache)

        return self._embeddings.get(vocabulary.key, self.device, embed)

    def forget_embeddings(self) -> None:
        """Clears the in-memory cache of text embeddings; must be called after CLIP's weights changed."""
        self._embeddings.clear()

    @property
    def uses_sam(self) -> bool:
        """Whether the decoder reads SAM's embedding."""
        return self.decoder.uses_sam

    def frozen_encoders(self) -> dict[str, FrozenModule]:
        """The encoders whose weights a checkpoint may contain: "clip", and "sam" if the model has one."""
        encoders: dict[str, FrozenModule | None] = {"clip": self.encoders.clip, "sam": self.encoders.sam}
        return {name: encoder for name, encoder in encoders.items() if encoder is not None}

    def trained_state_dict(self) -> dict[str, Tensor]:
        """State dict without the frozen encoders; a CLIP with a trained trunk is included."""
        included = (CLIP_PREFIX,) if self.encoders.clip.tuned else ()
        return {
            name: value
            for name, value in self.state_dict().items()
            if name.startswith(included) or not name.startswith(FROZEN_PREFIX)
        }

    def encoder_hashes(self) -> dict[str, str]:
        """Name -> content hash of the frozen encoders that the trained weights depend on."""
        return self.encoders.hashes()

    def _request(self, vocabulary: Vocabulary, settings: InferenceSettings) -> Request:
        return Request(
            classes=self.class_embeddings(vocabulary),
            is_thing=device_constant(vocabulary.is_thing, dtype=torch.bool, device=self.device),
            seen=device_constant(
                tuple(vocabulary.seen_for(self.train_vocabulary)), dtype=torch.bool, device=self.device
            ),
            settings=settings,
        )

    def _with_void(self, classes: ClassEmbeddings) -> ClassEmbeddings:
        return classes.with_void(F.normalize(self.void_embedding.weight, dim=-1))

    def _sam_evidence(
        self, masks: Proposals | None, dense_1Chw: Tensor, geometry: ImageGeometry, request: Request
    ) -> SAMEvidence | None:
        """SAM's masks of one image and their class probabilities; None if no result uses them or there are none."""
        ensemble = request.settings.mask_ensemble
        if ensemble is None or not request.settings.reads_sam_masks or not masks:
            return None
        with record_function("mask ensemble"):
            return sam_evidence(
                self.encoders.clip,
                masks,
                dense_1Chw,
                naming=self.naming,
                classes=self._with_void(request.classes),
                geometry=geometry,
                published_pooling=ensemble.published_pooling,
            )
