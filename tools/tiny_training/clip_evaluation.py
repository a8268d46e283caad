# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""How many ground-truth regions tiny CLIP names rightly, by the path that inference takes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from cmpf.common.tensors import mask_pooling, resize_bilinear
from cmpf.encoders.text import TEMPLATES
from cmpf.encoders.tiny import tiny_tokenizer
from cmpf.shapeworld import CATEGORIES
from cmpf.shapeworld.categories import MATERIALS, SHAPES
from tools.tiny_training.clip_features import dense_features, mask_logits, project
from tools.tiny_training.scenes import ScenePool, category_flags, make_batch
from tools.tiny_training.words import read

_CHUNK = 128


@torch.no_grad()
def category_texts(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Embeddings (T, E) of all categories' words, averaged over the templates; category (T,) of each row."""
    tokenizer = tiny_tokenizer()
    words = [word for category in CATEGORIES for word in category.words]
    prompts = [template.format(word) for word in words for template in TEMPLATES]
    chunks = [prompts[i : i + _CHUNK] for i in range(0, len(prompts), _CHUNK)]
    vectors = torch.cat([read(model, tokenizer, chunk) for chunk in chunks])
    matrix = F.normalize(vectors.view(len(words), len(TEMPLATES), -1).mean(dim=1), dim=-1)
    return matrix, torch.tensor([category.id for category in CATEGORIES for _ in category.words])


@dataclass(frozen=True)
class Naming:
    """True and named category (N,) int64 of the regions; named -1 where the mask vanished."""

    truth: Tensor
    named: Tensor

    def share(self, wanted: Tensor) -> float:
        """Percentage named rightly among the regions whose category is wanted, (54,) bool."""
        chosen = wanted[self.truth]
        return float((self.named == self.truth)[chosen].float().mean() * 100)


@torch.no_grad()
def name_regions(model: nn.Module, pool: ScenePool) -> Naming:
    """Names every ground-truth region of the scenes among all 54 categories."""
    matrix, class_of_row = category_texts(model)
    truth, named = [], []
    for start in range(0, len(pool), 32):
        index = np.arange(start, min(start + 32, len(pool)))
        batch = make_batch(pool, index, np.zeros(len(index), np.bool_))
        _, dense = dense_features(model, batch.images)
        logits = mask_logits(batch.masks)
        visible = (resize_bilinear(logits, (dense.shape[-2], dense.shape[-1])) > 0).any(dim=-1).any(dim=-1)
        regions = project(model, mask_pooling(dense, logits)[batch.present])
        best = class_of_row[(regions @ matrix.T).argmax(dim=1)]
        named.append(torch.where(visible[batch.present], best, -1))
        truth.append(batch.category_ids[batch.present])
    return Naming(torch.cat(truth), torch.cat(named))


def naming_table(naming: Naming) -> dict[str, float]:
    """Percentages of regions named rightly, over all and by kind; of masks that vanish at stride 32."""
    seen, thing = category_flags("seen"), category_flags("isthing")
    rows = {
        "regions": naming.share(torch.ones_like(seen)),
        "seen": naming.share(seen),
        "unseen": naming.share(~seen),
        "things": naming.share(thing),
        "things seen": naming.share(thing & seen),
        "things unseen": naming.share(thing & ~seen),
        "stuff": naming.share(~thing),
        "stuff unseen": naming.share(~thing & ~seen),
    }
    for attribute, values in (("material", MATERIALS), ("shape", SHAPES)):
        for value in values:
            rows[value] = naming.share(torch.tensor([getattr(c, attribute) == value for c in CATEGORIES]))
        of_category = torch.tensor(
            [values.index(v) if (v := getattr(c, attribute)) else -1 for c in CATEGORIES]
        )
        # Index -1 (a vanished mask) is answered by a last entry that matches nothing.
        answers = torch.cat([of_category, torch.tensor([-2])])
        right = answers[naming.named] == of_category[naming.truth]
        rows[f"{attribute} of things"] = float(right[thing[naming.truth]].float().mean() * 100)
    rows["vanished masks"] = float((naming.named < 0).float().mean() * 100)
    return rows
