"""The guarded model: pass 1 looks at the image, pass 2 answers with what pass 1 has found.

Both passes share the encoder's features: an image is encoded once (METHOD.md section 4).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL.Image import Image

from model.calibration import fit_policy
from model.features import Features, ImageFeatures
from model.policy import GuardPolicy, Verdict, decide, forced, risk_score
from model.prompts import Concept, Prompt, ask
from model.psavlm import PsaVlm
from schemas.errors import ConfigError
from schemas.frozen import Frozen
from schemas.hints import Hints, load_hints
from schemas.policies import ACTIONS, check_disabled, usual_action
from schemas.taxonomy import Taxonomy

__all__ = [
    "INTERVENTIONS", "Answer", "GuardPolicy", "GuardedVlm", "Hints", "Intervention", "Verdict",
    "decide", "fit_policy", "forced", "load_hints", "risk_score",
]  # fmt: skip


class Answer(Frozen):
    """A text, the verdict on its image (None without an image), the hint that was given."""

    text: str
    verdict: Verdict | None
    hint: str = ""


@dataclass(frozen=True)
class Intervention:
    """What is put into the prompt where the guard acts: a hint, the concept's tokens, or both."""

    hint: bool
    concept: bool


INTERVENTIONS: dict[str, Intervention] = {
    "hint": Intervention(hint=True, concept=False),
    "tokens": Intervention(hint=False, concept=True),
    "both": Intervention(hint=True, concept=True),
    "off": Intervention(hint=False, concept=False),
}


class GuardedVlm:
    """A trained model with its taxonomy, hints and policy.

    Raises:
        ConfigError: the policy disables a type that the taxonomy does not have.
    """

    def __init__(
        self, model: PsaVlm, *, taxonomy: Taxonomy, hints: Hints, policy: GuardPolicy
    ) -> None:
        check_disabled(policy.disabled, taxonomy)
        self.model = model.eval()
        self.taxonomy = taxonomy
        self.hints = hints
        self.policy = policy

    def encode(self, images: Sequence[Image | None]) -> list[ImageFeatures | None]:
        """h_o [P, V] of every image, None where there is none."""
        given = [image for image in images if image is not None]
        encoded = iter(self.model.backbone.encode_images(given)) if given else iter(())
        return [None if image is None else next(encoded) for image in images]

    @torch.no_grad()
    def judge(self, features: Features, questions: Sequence[str]) -> list[Verdict | None]:
        """Pass 1: a verdict on every image; None for text alone, which is not the guard's.

        A model without a head has no verdict on anything.
        """
        rows = list(zip(features, questions, strict=True))
        if not self.model.has_head:
            return [None] * len(rows)
        seen = [(image, question) for image, question in rows if image is not None]
        if not seen:
            return [None] * len(rows)
        images = [image for image, _ in seen]
        logits = self.model.concept_logits(images, [question for _, question in seen])
        verdicts = iter(decide(*logits, policy=self.policy, taxonomy=self.taxonomy))
        return [None if image is None else next(verdicts) for image, _ in rows]

    def answer(
        self,
        images: Sequence[Image | None],
        questions: Sequence[str],
        *,
        intervention: str = "hint",
        verdicts: Sequence[Verdict | None] | None = None,
        max_new_tokens: int = 64,
    ) -> list[Answer]:
        """Both passes for one batch of images, None for a question without one."""
        return self.answer_features(
            self.encode(images),
            questions,
            intervention=intervention,
            verdicts=verdicts,
            max_new_tokens=max_new_tokens,
        )

    def answer_features(
        self,
        features: Features,
        questions: Sequence[str],
        *,
        intervention: str = "hint",
        verdicts: Sequence[Verdict | None] | None = None,
        use_tokens: bool = True,
        max_new_tokens: int = 64,
    ) -> list[Answer]:
        """Both passes from h_o [P, V] (cached or just encoded).

        Args:
            features: per question, or None.
            questions: bare texts.
            intervention: what the guard does where it acts (INTERVENTIONS); `off` answers as if
                nothing had been seen.
            verdicts: given concepts in place of pass 1 (`forced`): oracle labels, interventions.
            use_tokens: False leaves the safety tokens out, as in the base.
            max_new_tokens: the longest answer.

        Raises:
            ConfigError: unknown intervention, or concept tokens that the model does not have.
        """
        if intervention not in INTERVENTIONS:
            raise ConfigError(
                f"unknown intervention {intervention!r}; known: {list(INTERVENTIONS)}"
            )
        found = self.judge(features, questions) if verdicts is None else verdicts
        prompts = [
            self.prompt(question, verdict, intervention=intervention)
            for question, verdict in zip(questions, found, strict=True)
        ]
        texts = self.model.write(
            features, prompts, use_tokens=use_tokens, max_new_tokens=max_new_tokens
        )
        rows = zip(texts, found, prompts, strict=True)
        return [
            Answer(text=text, verdict=verdict, hint=prompt.hint) for text, verdict, prompt in rows
        ]

    def prompt(self, question: str, verdict: Verdict | None, *, intervention: str) -> Prompt:
        """The question with what the guard puts beside it; alone where the guard does not act."""
        act = INTERVENTIONS[intervention]
        if verdict is None or not verdict.flagged:
            return ask(question)
        level = self._as_level(verdict)
        hint = self.hints.text_for(verdict.type, level, taxonomy=self.taxonomy) if act.hint else ""
        concept = self._concept(verdict, level) if act.concept else None
        return ask(question, hint=hint, concept=concept)

    def _as_level(self, verdict: Verdict) -> int:
        """The level whose usual action this is: an operator may have given it another one."""
        if verdict.action == usual_action(verdict.level):
            return verdict.level
        return [str(action) for action in ACTIONS].index(verdict.action)

    def _concept(self, verdict: Verdict, level: int) -> Concept:
        """What was found, given that there is a risk and that it is none which an operator allows.

        That there is one has been decided by the threshold; at a low one `clean` is still the most
        probable type, and telling that would undo the decision.
        """
        allowed = {self.taxonomy.type_ids[self.taxonomy.clean_index], *self.policy.disabled}
        types = [
            0.0 if name in allowed - {verdict.type} else p for name, p in verdict.type_probs.items()
        ]
        levels = [0.0, *list(verdict.level_probs.values())[1:]]
        if level != verdict.level:
            levels = [float(number == level) for number in range(len(levels))]
        return Concept(_normal(types), _normal(levels))


def _normal(shares: Sequence[float]) -> tuple[float, ...]:
    total = sum(shares) or 1.0
    return tuple(share / total for share in shares)
