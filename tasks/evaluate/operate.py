"""A trained arm at several operating points of its guard, at little more than the cost of one.

An answer depends on the item and on what the guard shows in its prompt, not on the threshold that
led to it. So pass 1 looks at every image once, and pass 2 answers every distinct pair of item and
prompt once. A model without a head is asked as it is, and its thresholds say nothing.
N images, K risk types, L levels.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from infra.answers import AnswerCache
from infra.store import Store
from model.calibration import threshold_at
from model.guard import Answer, Verdict
from model.policy import GuardPolicy, decide, risk_score
from model.prompts import Prompt
from schemas.artifact import Artifact
from schemas.config import EvaluateConfig
from schemas.policies import OperatorPolicy, operators_policy
from schemas.sweep import MATCHED, UNCALIBRATED
from schemas.taxonomy import load_taxonomy
from tasks.base_model import FOLDER
from tasks.encode import FeatureCache
from tasks.evaluate.arms import open_backbone, open_guarded
from tasks.evaluate.question import Question, features_of, images_of, upcoming
from tasks.progress import Tick

# The guard as if it had seen nothing, and as if every image were over its threshold.
SILENT, ACTING = "silent", "acting"
# An item's number, and how it is asked.
Key = tuple[int, Prompt]


@dataclass(frozen=True)
class Operated:
    """One operating point: its threshold, and an answer per item."""

    threshold: float
    answers: list[Answer]


class Operator:
    """A trained model with the features of its items; `batch` of them go through at a time.

    A batch's texts are kept when they are there (`kept`), and what is kept is not asked again.
    """

    def __init__(
        self,
        base: Path,
        model: Path,
        features: Artifact,
        kept: AnswerCache,
        *,
        batch: int,
        half: bool = False,
        policy: OperatorPolicy | None = None,
    ) -> None:
        backbone = open_backbone(base, half=half)
        self.guarded, self.intervention = open_guarded(model, backbone, policy=policy)
        self.cache = FeatureCache(features)
        self.kept = kept
        self.batch = batch

    @classmethod
    def of(
        cls,
        config: EvaluateConfig,
        parents: dict[str, Artifact],
        store: Store,
        kept: AnswerCache,
    ) -> "Operator":
        """That of an evaluation's parents: base, model and features."""
        return cls(
            store.local(parents["base"]) / FOLDER,
            store.local(parents["model"]) / FOLDER,
            parents["features"],
            kept,
            policy=operators_policy(config.policy, taxonomy=load_taxonomy(config.taxonomy)),
            batch=config.batch,
            half=config.precision == "bf16",
        )

    def operate(
        self, items: Sequence[Question], *, rate: float, max_new_tokens: int, tick: Tick
    ) -> dict[str, Operated]:
        """Both operating points of schemas/sweep.py by name.

        Args:
            items: what is asked.
            rate: share of the benign images that `matched` flags; its threshold is set on these.
            max_new_tokens: the longest answer.
            tick: told how many items are done.
        """
        policies, verdicts = self._decide(items, rate)
        answered = self._answered(items, verdicts, max_new_tokens, tick)
        return {name: Operated(policies[name].threshold, own) for name, own in answered.items()}

    def both_ways(
        self, items: Sequence[Question], *, max_new_tokens: int, tick: Tick
    ) -> dict[str, list[Answer]]:
        """An answer per item with the guard silent, and one with it acting, whatever it saw.

        Together they are the answers at every threshold: an item is answered as `acting` where its
        risk reaches the threshold. Types that an operator lets pass stay silent.

        Args:
            items: what is asked.
            max_new_tokens: the longest answer.
            tick: told how many items are done.
        """
        always = GuardPolicy.model_validate({**self.guarded.policy.model_dump(), "threshold": 0.0})
        seen = [item for item in items if item.image_id is not None]
        found = iter(
            decide(*self._look(seen), policy=always, taxonomy=self.guarded.taxonomy) if seen else ()
        )
        acting = [None if item.image_id is None else next(found) for item in items]
        silent = [
            verdict and Verdict.model_validate({**verdict.model_dump(), "flagged": False})
            for verdict in acting
        ]
        verdicts = {SILENT: silent, ACTING: acting}
        return self._answered(items, verdicts, max_new_tokens, tick)

    def _answered(
        self,
        items: Sequence[Question],
        verdicts: dict[str, list[Verdict | None]],
        max_new_tokens: int,
        tick: Tick,
    ) -> dict[str, list[Answer]]:
        """An answer per item under each name's verdicts; each different prompt is asked once."""
        keys = {name: self._keys(items, found) for name, found in verdicts.items()}
        asked: dict[Key, Verdict | None] = {}
        for name, found in verdicts.items():
            asked |= zip(keys[name], found, strict=True)
        texts = self._write(items, asked, max_new_tokens, tick)
        return {
            name: [
                Answer(text=texts[key], verdict=verdict, hint=key[1].hint)
                for key, verdict in zip(keys[name], found, strict=True)
            ]
            for name, found in verdicts.items()
        }

    def _decide(
        self, items: Sequence[Question], rate: float
    ) -> tuple[dict[str, GuardPolicy], dict[str, list[Verdict | None]]]:
        """Pass 1: the policies, and under each a verdict per item (None for text alone)."""
        if not self.guarded.model.has_head:
            blind: list[Verdict | None] = [None] * len(items)
            points = (UNCALIBRATED, MATCHED)
            return dict.fromkeys(points, GuardPolicy()), dict.fromkeys(points, blind)
        seen = [item for item in items if item.image_id is not None]
        types_NK, levels_NL = self._look(seen)
        own = self.guarded.policy
        policies = {UNCALIBRATED: GuardPolicy(disabled=own.disabled, actions=own.actions)}
        risks = risk_score(types_NK, levels_NL, policies[UNCALIBRATED]).tolist()
        benign = [risk for risk, item in zip(risks, seen, strict=True) if item.benign]
        at_rate = {"threshold": threshold_at(benign, rate)}
        policies[MATCHED] = GuardPolicy.model_validate(
            {**policies[UNCALIBRATED].model_dump(), **at_rate}
        )
        verdicts: dict[str, list[Verdict | None]] = {}
        for name, policy in policies.items():
            taxonomy = self.guarded.taxonomy
            found = iter(decide(types_NK, levels_NL, policy=policy, taxonomy=taxonomy))
            verdicts[name] = [None if item.image_id is None else next(found) for item in items]
        return policies, verdicts

    @torch.no_grad()
    def _look(self, seen: Sequence[Question]) -> tuple[Tensor, Tensor]:
        """Type logits [N, K] and level logits [N, L] of items that have an image."""
        taxonomy = self.guarded.taxonomy
        types = [torch.zeros(0, len(taxonomy.types))]
        levels = [torch.zeros(0, len(taxonomy.levels))]
        for first in range(0, len(seen), self.batch):
            part = seen[first : first + self.batch]
            self.cache.expect(upcoming(seen, first))
            features = self.cache.batch(images_of(part))
            found = self.guarded.model.concept_logits(features, [item.text for item in part])
            types.append(found[0].cpu())
            levels.append(found[1].cpu())
        return torch.cat(types), torch.cat(levels)

    def _keys(self, items: Sequence[Question], verdicts: Sequence[Verdict | None]) -> list[Key]:
        """What decides an item's answer: its number and its prompt."""
        ask, kind = self.guarded.prompt, self.intervention
        return [
            (i, ask(item.text, verdict, intervention=kind))
            for i, (item, verdict) in enumerate(zip(items, verdicts, strict=True))
        ]

    def _write(
        self,
        items: Sequence[Question],
        asked: dict[Key, Verdict | None],
        max_new_tokens: int,
        tick: Tick,
    ) -> dict[Key, str]:
        """Pass 2: one text per key, each asked with the verdict that gave its hint."""
        keys, texts = sorted(asked, key=lambda key: (key[0], key[1].hint)), {}
        whole = [items[i] for i, _ in keys]
        for first in range(0, len(keys), self.batch):
            batch, part = keys[first : first + self.batch], whole[first : first + self.batch]
            name = {"asked": [[items[i].sample_id, asdict(prompt)] for i, prompt in batch]}
            known = self.kept.get(name)
            if known is None:
                self.cache.expect(upcoming(whole, first))
                answers = self.guarded.answer_features(
                    features_of(part, self.cache),
                    [item.text for item in part],
                    intervention=self.intervention,
                    verdicts=[asked[key] for key in batch],
                    max_new_tokens=max_new_tokens,
                )
                known = {"texts": [answer.text for answer in answers]}
                self.kept.add(name, known)
            texts |= zip(batch, known["texts"], strict=True)
            tick(len(items) * len(texts) // len(keys), "items")
        return texts
