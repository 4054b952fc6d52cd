"""The two losses: concepts (type and level) and language (the answer's tokens)."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

IGNORED = -100


def concept_loss(
    type_logits: Tensor, level_logits: Tensor, types: Tensor, levels: Tensor, weight: float = 10.0
) -> Tensor:
    """lambda (CE_type + CE_level), the mean over the batch; lambda = 10 (METHOD.md section 2).

    Args:
        type_logits: [B, K].
        level_logits: [B, L].
        types: class numbers [B].
        levels: level numbers [B].
        weight: lambda.
    """
    return weight * (cross_entropy(type_logits, types) + cross_entropy(level_logits, levels))


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
