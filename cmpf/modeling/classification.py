# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Open-vocabulary classification: embeddings against a text matrix."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from cmpf.common.tensors import sizes_agree
from cmpf.types import ClassEmbeddings


def class_logits(x_BQE: Tensor, embeddings: ClassEmbeddings, scale: Tensor | float) -> Tensor:
    """Scaled cosine similarity with each class; a class counts as its best synonym (paper Sec. 3.4).

    Args:
        x_BQE: embeddings in CLIP's space, any length.
        embeddings: K classes, T synonyms.
        scale: multiplies the cosine.
    Returns:
        (B, Q, K) in the text matrix's precision, whatever autocast says: scale is up to 100, and half
        precision would cost up to half a logit.
    """
    B, Q, _ = x_BQE.shape
    with torch.autocast(x_BQE.device.type, enabled=False):
        x_QE = scale * F.normalize(x_BQE.to(embeddings.matrix.dtype), dim=-1).flatten(0, 1)
        if sizes_agree(embeddings.matrix.shape[:1], (embeddings.num_classes,)):
            return (x_QE @ embeddings.matrix.T).view(B, Q, -1)
        # Synonyms first: torch reduces whole rows then, and the maximum costs little beside the product.
        synonym_logits = embeddings.matrix @ x_QE.T
        best = synonym_logits.new_full((embeddings.num_classes, B * Q), -torch.inf)
        rows = embeddings.class_of_row[:, None].expand_as(synonym_logits)
        best = best.scatter_reduce(0, rows, synonym_logits, reduce="amax")
    return best.T.reshape(B, Q, -1)
