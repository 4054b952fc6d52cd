"""The guarded model: pass 1 looks at the image, pass 2 answers with what pass 1 has found.

Both passes share the encoder's features: an image is encoded once (METHOD.md section 4).
"""

from collections.abc import Callable, Sequence

import torch
from PIL.Image import Image

from model.features import Features, ImageFeatures
from model.policy import GuardPolicy, Verdict, decide, fit_policy, forced, risk_score
from model.prompts import ask
from model.psavlm import PsaVlm
from schemas.errors import ConfigError
from schemas.frozen import Frozen
from schemas.hints import Hints, load_hints
from schemas.taxonomy import Taxonomy

__all__ = [
    "INTERVENTIONS", "Answer", "GuardPolicy", "GuardedVlm", "Hints", "Verdict", "decide",
    "fit_policy", "forced", "load_hints", "risk_score",
]  # fmt: skip


class Answer(Frozen):
    """A text, the verdict on its image (None without an image), the hint that was given."""

    text: str
    verdict: Verdict | None
    hint: str = ""


def _hint(verdict: Verdict | None, hints: Hints, taxonomy: Taxonomy) -> str:
    if verdict is None or not verdict.flagged:
        return ""
    return hints.text_for(verdict.type, verdict.level, taxonomy=taxonomy)


def _no_hint(verdict: Verdict | None, hints: Hints, taxonomy: Taxonomy) -> str:
    return ""


INTERVENTIONS: dict[str, Callable[[Verdict | None, Hints, Taxonomy], str]] = {
    "hint": _hint,
    "off": _no_hint,
}


class GuardedVlm:
    """A trained model with its taxonomy, hints and policy.

    Raises:
        ConfigError: the policy disables a type that the taxonomy does not have.
    """

    def __init__(
        self, model: PsaVlm, *, taxonomy: Taxonomy, hints: Hints, policy: GuardPolicy
    ) -> None:
        unknown = set(policy.disabled) - set(taxonomy.type_ids)
        if unknown:
            raise ConfigError(
                f"disabled types {sorted(unknown)} are not in taxonomy '{taxonomy.name}' "
                f"{taxonomy.type_ids}"
            )
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
        """Pass 1: a verdict on every image; None for text alone, which is not the guard's."""
        rows = list(zip(features, questions, strict=True))
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
        max_new_tokens: int = 64,
    ) -> list[Answer]:
        """Both passes for one batch of images, None for a question without one."""
        return self.answer_features(
            self.encode(images),
            questions,
            intervention=intervention,
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
            intervention: `hint`, or `off` to answer as if nothing had been seen.
            verdicts: given concepts in place of pass 1 (`forced`): oracle labels, interventions.
            use_tokens: False leaves the safety tokens out, as in the base.
            max_new_tokens: the longest answer.

        Raises:
            ConfigError: unknown intervention.
        """
        if intervention not in INTERVENTIONS:
            raise ConfigError(
                f"unknown intervention {intervention!r}; known: {list(INTERVENTIONS)}"
            )
        found = self.judge(features, questions) if verdicts is None else verdicts
        act = INTERVENTIONS[intervention]
        hints = [act(verdict, self.hints, self.taxonomy) for verdict in found]
        prompts = [ask(q, hint=hint) for q, hint in zip(questions, hints, strict=True)]
        texts = self.model.write(
            features, prompts, use_tokens=use_tokens, max_new_tokens=max_new_tokens
        )
        rows = zip(texts, found, hints, strict=True)
        return [Answer(text=text, verdict=verdict, hint=hint) for text, verdict, hint in rows]
