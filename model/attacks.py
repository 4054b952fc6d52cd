"""Attacks on a guarded model: what small changes of pixels do to the head and to the answer.

Projected gradient descent in the L-inf ball (Madry et al., arXiv 1706.06083), on the pixels that
the encoder is given, through its normalisation and every layer behind it. Pictures are rounded to
whole 1/255 at the end, so that each is an image that can be stored. The attacker knows all weights,
and attacks guard and answer at once, which is what an evaluation of a defence must try
(METHOD.md section 9). B images; letters as in backbone.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from model.guard import GuardedVlm
from model.losses import IGNORED
from model.prompts import Prompt, teach
from model.psavlm import PsaVlm

WHOLE = 255  # steps of a pixel's value; budgets count these
MARGIN = 1.0  # in logits, by which a wanted token shall lead
START = 8  # in 1/255: a larger ball's random places are noise, from which nothing leads back
OVERSHOOT = 2.5  # all steps together may cross the ball that often


@dataclass(frozen=True)
class Aim:
    """What the attacker wants of B items: a risk overlooked, or a benign request refused.

    `seen` [B, 3, H, W] in 0..1 as of `Backbone.as_seen`; `wanted` are the answers to be drawn out;
    `risky` [B] says which way: True lets the risk pass, False has the guard act on nothing.
    `prompts` are what the language model is given of the unchanged image.
    """

    seen: Tensor
    questions: Sequence[str]
    wanted: Sequence[str]
    risky: Tensor
    prompts: Sequence[Prompt]


Loss = Callable[[Tensor], Tensor]


def aim(  # noqa: PLR0913 - the parts of an aim, and the model that is asked for its prompts
    guarded: GuardedVlm,
    seen: Tensor,
    questions: Sequence[str],
    wanted: Sequence[str],
    *,
    risky: Sequence[bool],
    intervention: str,
) -> Aim:
    """An aim at unchanged pictures [B, 3, H, W], with the prompts that the guard makes of them."""
    with torch.no_grad():
        features = list(guarded.model.backbone.encode_seen(seen))
    verdicts = guarded.judge(features, questions)
    prompts = [
        guarded.prompt(question, verdict, intervention=intervention)
        for question, verdict in zip(questions, verdicts, strict=True)
    ]
    flags = torch.tensor(list(risky), device=seen.device)
    return Aim(seen, questions, wanted, flags, prompts)


def head_loss(model: PsaVlm, found: Aim) -> Loss:
    """What a picture has left of the verdict that is not wanted, in nats [B].

    -log p(clean) and -log p(level 0), halved like the guard's score, for risky items;
    -log(1 - p) of both for benign ones. Log-probabilities do not go flat where the head is sure.
    """

    def loss(seen: Tensor) -> Tensor:
        features = model.backbone.encode_seen(seen)
        types, levels = (
            logits.float().log_softmax(-1)
            for logits in model.concept_logits(features, found.questions)
        )
        passed = -(types[:, -1] + levels[:, 0]) / 2
        flagged = -(types[:, :-1].logsumexp(-1) + levels[:, 1:].logsumexp(-1)) / 2
        return torch.where(found.risky, passed, flagged)

    return loss


def answer_loss(model: PsaVlm, found: Aim, *, passed: bool = False) -> Loss:
    """How far the wanted answer's tokens are from being the most probable ones, in logits [B].

    Greedy decoding gives the answer once each token leads, so that a token which does counts for
    nothing (Carlini and Wagner's margin, arXiv 1608.04644). A mean of -log p would be content with
    all tokens but the first one, after which nothing goes as it was taught. With `passed` the
    question stands alone, as it will once the guard is beaten; otherwise in the prompt that the
    guard made of the unchanged image.
    """
    asked = []
    for question, wanted, own in zip(found.questions, found.wanted, found.prompts, strict=True):
        shown = Prompt(()) if passed else own
        asked.append(replace(teach(question, wanted), hint=shown.hint, concept=shown.concept))

    def loss(seen: Tensor) -> Tensor:
        features = list(model.backbone.encode_seen(seen))
        batch = model.compose(features, asked, use_tokens=True, training=True)
        hidden = model.backbone.hidden(batch.embeds, batch.mask, batch.positions)
        targets = batch.labels[:, 1:]
        taught = targets != IGNORED
        logits = model.backbone.logits(hidden[:, :-1][taught]).float()
        losses = logits.new_zeros(targets.shape)
        losses[taught] = _behind(logits, targets[taught])
        return losses.sum(1)

    return loss


def token_loss(model: PsaVlm, found: Aim) -> Loss:
    """Minus how far the image's safety tokens h_s are from those of the unchanged image [B].

    It needs neither label nor head: the mean square over the head's own norm of [s_head; h_s].
    """

    def keys(seen: Tensor) -> Tensor:
        patches, real, views = model.read_by_head(model.backbone.encode_seen(seen))
        tokens, _ = model.safety.keys(patches, real=real, views=views)
        return model.safety.head.norm(tokens)  # type: ignore[union-attr, operator]

    with torch.no_grad():
        unchanged = keys(found.seen)
    return lambda seen: -((keys(seen) - unchanged) ** 2).mean((1, 2))


def joint_loss(model: PsaVlm, found: Aim, *, weight: float) -> Loss:
    """`head_loss` times a weight, and `answer_loss` once the guard is beaten; [B]."""
    head, answer = head_loss(model, found), answer_loss(model, found, passed=True)
    return lambda seen: weight * head(seen) + answer(seen)


def descend(
    loss: Loss, seen: Tensor, *, eps: int, steps: int, draws: Sequence[torch.Generator]
) -> Tensor:
    """Pictures [B, 3, H, W] within `eps`/255 of `seen` with the least loss on the way.

    Steps of 2.5 eps/steps along the gradient's sign, from a random place near the picture,
    projected onto the ball and onto 0..1 after each.

    Args:
        loss: of pictures, one number each; items do not depend on each other.
        seen: [B, 3, H, W] in whole 1/255.
        eps: budget in 1/255; 255 is none.
        steps: gradient steps.
        draws: a generator per picture, so that a picture's start does not depend on its batch.
    """
    low, high = _ball(seen, eps)
    near, far = _ball(seen, min(eps, START))
    stride = OVERSHOOT * eps / WHOLE / steps
    places = torch.stack([torch.rand(seen.shape[1:], generator=draw) for draw in draws])
    at = near + (far - near) * places.to(seen)
    best, least = at, seen.new_full((len(seen),), torch.inf)
    for _ in range(steps):
        at = at.detach().requires_grad_()
        losses = loss(at)
        (slope,) = torch.autograd.grad(losses.sum(), at)
        best, least = _better(best, least, at.detach(), losses.detach())
        at = torch.clamp(at.detach() - stride * slope.sign(), low, high)
    with torch.no_grad():
        best, _ = _better(best, least, at, loss(at))
    return _whole(best, seen, eps)


def shaken(seen: Tensor, *, eps: int, draws: Sequence[torch.Generator]) -> Tensor:
    """The control: every value moved by `eps`/255 up or down at random, the ball's corners."""
    signs = torch.stack([torch.rand(seen.shape[1:], generator=draw) < 0.5 for draw in draws])
    moved = torch.where(signs.to(seen.device), seen + eps / WHOLE, seen - eps / WHOLE)
    return _whole(moved.clamp(0, 1), seen, eps)


def _behind(logits: Tensor, wanted: Tensor) -> Tensor:
    """How far each wanted token is behind the best other one, and the margin; [M, W], [M] -> [M].

    0 where it leads by MARGIN or more.
    """
    own = logits.gather(1, wanted[:, None])
    others = logits.scatter(1, wanted[:, None], -torch.inf).amax(1)
    return (others - own[:, 0] + MARGIN).clamp(min=0)


def _better(best: Tensor, least: Tensor, at: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
    won = losses < least
    return torch.where(won[:, None, None, None], at, best), torch.where(won, losses, least)


def _ball(seen: Tensor, eps: int) -> tuple[Tensor, Tensor]:
    """The least and the largest value of every pixel within a budget."""
    return (seen - eps / WHOLE).clamp(0, 1), (seen + eps / WHOLE).clamp(0, 1)


def _whole(pictures: Tensor, seen: Tensor, eps: int) -> Tensor:
    """Rounded to whole 1/255, which leaves the ball nowhere since `seen` and eps are whole."""
    rounded = (pictures * WHOLE).round()
    middle = (seen * WHOLE).round()
    return torch.clamp(rounded, middle - eps, middle + eps) / WHOLE
