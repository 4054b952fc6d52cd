"""How an arm answers: the bare base, a trained model with its guard, or the base with an oracle."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from model.backbone import Backbone
from model.batches import compose
from model.checkpoint import load_model
from model.features import ImageFeatures
from model.guard import Answer, GuardedVlm, GuardPolicy, forced
from model.prompts import ask
from model.psavlm import PsaVlm
from schemas.config import MethodConfig
from schemas.hints import Hints
from schemas.policies import OperatorPolicy
from schemas.taxonomy import Taxonomy
from tasks.evaluate.question import Label

Respond = Callable[[Sequence[ImageFeatures | None], Sequence[str], Sequence[Label]], list[Answer]]


def open_arm(
    backbone: Backbone, model: Path | None, *, policy: OperatorPolicy | None, max_new_tokens: int
) -> Respond:
    """A function from features h_o [P, V], questions and labels (not used) to answers."""
    if model is None:
        return lambda features, questions, _: bare(backbone, features, questions, max_new_tokens)
    guarded, intervention = open_guarded(model, backbone, policy=policy)
    return lambda features, questions, _: guarded.answer_features(
        features, questions, intervention=intervention, max_new_tokens=max_new_tokens
    )


def open_oracle(
    backbone: Backbone,
    method: MethodConfig,
    hints: Hints,
    *,
    taxonomy: Taxonomy,
    max_new_tokens: int,
) -> Respond:
    """The untrained base, given the hint of each item's own label: what prompting can reach.

    Its answers carry no verdict: nothing was seen.
    """
    types, levels = len(taxonomy.types), len(taxonomy.levels)
    guarded = GuardedVlm(
        PsaVlm.new(backbone, method, types=types, levels=levels),
        taxonomy=taxonomy,
        hints=hints,
        policy=GuardPolicy(),
    )

    def respond(
        features: Sequence[ImageFeatures | None], questions: Sequence[str], labels: Sequence[Label]
    ) -> list[Answer]:
        told = [
            None if h is None else forced(*label, taxonomy=taxonomy)
            for h, label in zip(features, labels, strict=True)
        ]
        answers = guarded.answer_features(
            features,
            questions,
            intervention=method.intervention,
            verdicts=told,
            max_new_tokens=max_new_tokens,
        )
        return [Answer(text=answer.text, verdict=None, hint=answer.hint) for answer in answers]

    return respond


def open_backbone(base: Path, *, half: bool = False) -> Backbone:
    """The frozen base, on the GPU if there is one; `half` is in bfloat16."""
    backbone = Backbone.load(str(base), dtype=torch.bfloat16 if half else torch.float32)
    backbone.freeze()
    if torch.cuda.is_available():
        backbone.to("cuda")
    return backbone


def open_guarded(
    model: Path, backbone: Backbone, *, policy: OperatorPolicy | None = None
) -> tuple[GuardedVlm, str]:
    """A trained model with taxonomy, hints and calibration of its card, and its intervention.

    `policy`: an operator's, over the card's own.
    """
    trained, card = load_model(model, backbone)
    own = card.policy if policy is None else card.policy.operated(policy)
    guarded = GuardedVlm(trained, taxonomy=card.taxonomy, hints=card.hints, policy=own)
    return guarded, card.method.intervention


@torch.no_grad()
def bare(
    backbone: Backbone,
    features: Sequence[ImageFeatures | None],
    questions: Sequence[str],
    max_new_tokens: int,
) -> list[Answer]:
    """Answers of the base by itself, without verdicts."""
    images = [None if h is None else backbone.project([h])[0] for h in features]
    batch = compose(backbone, [ask(question) for question in questions], images=images)
    texts = backbone.generate(
        batch.embeds, batch.mask, batch.positions, max_new_tokens=max_new_tokens
    )
    return [Answer(text=text, verdict=None) for text in texts]
