"""The two losses: concepts (type and level) and language (the answer's tokens)."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

IGNORED = -100


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
    weights = logits.new_ones(logits.shape[1]) if class_weights is None else class_weights
    counted = targets != IGNORED
    total = cross_entropy(
        logits, targets, weight=class_weights, ignore_index=IGNORED, reduction="sum"
    )
    return total, weights[targets[counted]].sum()


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
    """Summed cross-entropy of the answer tokens, and their number.

    `head` sees only the positions that predict an answer token: on a LLaVA-1.5 the vocabulary
    product over all 700 positions would be the largest tensor of the step.

    Args:
        states: hidden states [B, N, D]; position n predicts token n + 1.
        labels: token ids [B, N], -100 where nothing is taught (METHOD.md section 7.2).
        head: hidden states [M, D] to logits [M, W].
    """
    targets = labels[:, 1:]
    taught = targets != IGNORED
    logits = head(states[:, :-1][taught])
    return cross_entropy(logits.float(), targets[taught], reduction="sum"), taught.sum()


def language_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over answer tokens; 0 if the whole batch is masked.

    Args:
        logits: [B, N, W]; position n predicts token n + 1.
        labels: token ids [B, N], -100 where nothing is taught.
    """
    total, count = answer_loss(logits, labels, nn.Identity())
    return total / count.clamp(min=1)
