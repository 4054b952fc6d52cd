"""The two losses: concepts (type and level) and language (the answer's tokens)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.checkpoint import checkpoint

IGNORED = -100
# Positions whose logits are in memory at a time: 131 MB in fp32 for a vocabulary of 32,000.
CHUNK = 1024


class Answers(NamedTuple):
    """Over a batch's answer tokens: summed cross-entropy, their number, how many were foreseen.

    `positions` and `padded` are what the language model was given, text, safety tokens and h_i:
    without padding, and with it.
    """

    total: Tensor
    tokens: Tensor
    right: Tensor
    positions: Tensor | int = 0
    padded: Tensor | int = 0


def head_loss(
    logits: Tensor, targets: Tensor, class_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of one head, and the sum of weights to divide it by.

    Workers divide by that of the whole global batch, so that the loss does not depend on how many
    there are.

    Args:
        logits: [B, C].
        targets: class numbers [B]; -100 where the label is missing: such a row counts for nothing.
        class_weights: [C]; None weighs all alike, and the divisor is the number of labels.
    """
    total = cross_entropy(
        logits, targets, weight=class_weights, ignore_index=IGNORED, reduction="sum"
    )
    return total, label_weight(targets, class_weights)


def label_weight(targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """What a batch's labels [B] weigh together: what the sum of its losses is divided by."""
    labels = targets[targets != IGNORED]
    if class_weights is None:
        return torch.tensor(float(len(labels)), device=targets.device)
    return class_weights[labels].sum()


def concept_loss(
    type_logits: Tensor, level_logits: Tensor, types: Tensor, levels: Tensor, weight: float = 10.0
) -> Tensor:
    """lambda (CE_type + CE_level), the mean over the batch; lambda = 10 (METHOD.md section 2).

    Args:
        type_logits: [B, K].
        level_logits: [B, L].
        types: class numbers [B], -100 where the label is missing.
        levels: level numbers [B], -100 where the label is missing.
        weight: lambda.
    """
    of_types, typed = head_loss(type_logits, types)
    of_levels, levelled = head_loss(level_logits, levels)
    return weight * (of_types / typed.clamp(min=1) + of_levels / levelled.clamp(min=1))


def answer_loss(
    states: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of the answer tokens, and their number; see `answer_sums`."""
    sums = answer_sums(states, labels, head)
    return sums.total, sums.tokens


def answer_sums(
    states: Tensor, labels: Tensor, head: Callable[[Tensor], Tensor], *, chunk: int = CHUNK
) -> Answers:
    """What a batch's answer tokens cost, with never more than `chunk` rows of logits at a time.

    `head` sees only the positions that predict an answer token: on a LLaVA-1.5 the vocabulary
    product over all 700 positions would be the largest tensor of the step. Where the answers need
    several chunks, their logits are computed a second time in the backward pass and never kept.

    Args:
        states: hidden states [B, N, D]; position n predicts token n + 1.
        labels: token ids [B, N], -100 where nothing is taught (METHOD.md section 7.2).
        head: hidden states [M, D] to logits [M, W].
        chunk: answer positions whose logits are held at a time.
    """
    targets = labels[:, 1:]
    taught = targets != IGNORED
    rows, wanted = states[:, :-1][taught], targets[taught]

    def one(some: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        logits = head(some)
        total = cross_entropy(logits.float(), tokens, reduction="sum")
        return total, (logits.detach().argmax(-1) == tokens).sum()

    if len(rows) <= chunk:
        total, right = one(rows, wanted)
        return Answers(total, taught.sum(), right)
    parts = zip(rows.split(chunk), wanted.split(chunk), strict=True)
    sums = [checkpoint(one, *part, use_reentrant=False) for part in parts]
    totals, rights = (torch.stack(column).sum() for column in zip(*sums, strict=True))
    return Answers(totals, taught.sum(), rights)


def language_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over answer tokens; 0 if the whole batch is masked.

    Args:
        logits: [B, N, W]; position n predicts token n + 1.
        labels: token ids [B, N], -100 where nothing is taught.
    """
    total, count = answer_loss(logits, labels, nn.Identity())
    return total / count.clamp(min=1)
