"""What a straight line can read from states: linear probes, variance between classes, a plane.

n states of width D, K classes. All in float64 and without a draw, so that they repeat exactly.
"""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

STEPS = 200
FLAT = 1e-6  # of a column that moves less, as a share of its size, only rounding is seen


def standardised(states: Tensor, like: Tensor) -> Tensor:
    """States [n, D] by the means and deviations of others [m, D]; 0 where those stand still."""
    like = like.double()
    mean, deviation = like.mean(0), like.std(0, correction=0)
    moves = deviation > FLAT * like.abs().amax(0)
    return torch.where(moves, (states.double() - mean) / torch.where(moves, deviation, 1.0), 0.0)


def linear_probe(
    states: Tensor, labels: Tensor, unseen: Tensor, *, classes: int, penalty: float
) -> Tensor:
    """Class numbers [m] that a logistic regression on states [n, D] gives to `unseen` [m, D].

    Minimises mean cross-entropy + penalty / 2 |W|^2 by L-BFGS from zero: the one minimum.

    Args:
        states: what it learns from.
        labels: class numbers [n].
        unseen: what it is asked about.
        classes: K.
        penalty: of the weights, on standardised states.
    """
    own, other = standardised(states, states), standardised(unseen, states)
    weight = torch.zeros(own.shape[1], classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=STEPS, tolerance_grad=1e-7, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(own @ weight + bias, labels) + penalty / 2 * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return (other @ weight + bias).argmax(1).detach()


def between_classes(states: Tensor, labels: Tensor) -> float:
    """The share of the variance of standardised states [n, D] that lies between classes, 0..1.

    trace(S_between) / trace(S_total); 0 where all classes have one mean, 1 where each is a point.
    """
    own = standardised(states, states)
    total = own.square().sum()
    if not float(total):
        return 0.0
    between = torch.zeros((), dtype=torch.float64)
    for label in labels.unique():
        members = own[labels == label]
        between = between + len(members) * members.mean(0).square().sum()
    return float(between / total)


def plane(states: Tensor, unseen: Tensor) -> Tensor:
    """`unseen` [m, D] on the two axes [m, 2] along which states [n, D] vary most (PCA)."""
    own, other = standardised(states, states), standardised(unseen, states)
    _, _, axes = torch.linalg.svd(own, full_matrices=False)
    # An axis has no sign of its own: its largest part points up.
    axes = axes[:2]
    largest = axes.abs().argmax(1, keepdim=True)
    return other @ (axes * axes.gather(1, largest).sign()).T
