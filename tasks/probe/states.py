"""What is probed: states of images before and after the projectors, and of prompts.

N images or rows, D the width of what is read.
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from model.backbone import Backbone
from model.checkpoint import load_card
from model.features import stacked
from model.guard import GuardedVlm, Verdict
from model.psavlm import PsaVlm
from schemas.config import MethodConfig
from tasks.encode import FeatureCache
from tasks.evaluate.arms import open_backbone, open_guarded
from tasks.evaluate.question import question_of
from tasks.progress import progress

ENCODER, OWN_PROJECTOR = "h_o: encoder", "h_i: the base's own projector"
UNTRAINED, TRAINED = "h_s: safety projector, untrained", "h_s: safety projector, trained"
WITHOUT = "no tokens (the base)"
WORDS = {"static": "static tokens", "concept": "concept tokens", "none": "no tokens"}


class Opened(NamedTuple):
    """The base and the trained stage 1 of every method around it."""

    backbone: Backbone
    methods: dict[str, GuardedVlm]
    parts: dict[str, MethodConfig]

    @property
    def first(self) -> str:
        """The method whose projector and head are probed."""
        return next(iter(self.methods))


def opened(base: Path, models: dict[str, Path]) -> Opened:
    """Every stage 1 around one frozen base: none of them has an adapter."""
    backbone = open_backbone(base)
    methods = {name: open_guarded(path, backbone)[0] for name, path in models.items()}
    return Opened(backbone, methods, {n: load_card(path).method for n, path in models.items()})


@torch.no_grad()
def image_states(
    found: Opened, cache: FeatureCache, image_ids: Sequence[str], *, batch: int, seed: int
) -> dict[str, Tensor]:
    """Mean over the patches [N, D] of each stage on an image's way, by name.

    Args:
        found: the models; the first one's safety projector is meant.
        cache: features h_o of the images.
        image_ids: N of them.
        batch: how many at a time.
        seed: of the training, which drew the untrained projector.
    """
    guarded = found.methods[found.first]
    taxonomy = guarded.taxonomy
    fresh = PsaVlm.new(
        found.backbone, found.parts[found.first], types=len(taxonomy.types),
        levels=len(taxonomy.levels), seed=seed,
    ).eval()  # fmt: skip
    readers: dict[str, Callable[[Any], tuple[Tensor, Tensor | None]]] = {
        ENCODER: lambda features: stacked(features, found.backbone.device),
        OWN_PROJECTOR: lambda h: stacked(found.backbone.project(h), found.backbone.device),
        UNTRAINED: lambda features: _projected(fresh, features),
        TRAINED: lambda features: _projected(guarded.model, features),
    }
    parts: dict[str, list[Tensor]] = {name: [] for name in readers}
    for ids in _pieces(image_ids, batch, "probe images"):
        features = cache.batch(ids)
        for name, read in readers.items():
            parts[name].append(_mean(*read(features)).cpu())
    return {name: torch.cat(rows) for name, rows in parts.items()}


@torch.no_grad()
def prompt_states(
    guarded: GuardedVlm, cache: FeatureCache, rows: Sequence[dict[str, Any]], *, tokens: bool,
    batch: int,
) -> Tensor:  # fmt: skip
    """The language model's last state [N, D] at the end of each prompt, with its answer next.

    Args:
        guarded: a trained stage 1. Concept tokens are shown where its own guard acts; hints never.
        cache: features of the rows' images.
        rows: `image_id` and `messages`.
        tokens: False leaves all safety tokens out, as in the base.
        batch: how many at a time.
    """
    model, states = guarded.model, []
    kind = "tokens" if tokens and model.safety.tokens.by_type is not None else "off"
    for part in _pieces(rows, batch, "probe prompts"):
        features = cache.batch([row["image_id"] for row in part])
        questions = [question_of(row) for row in part]
        nothing: list[Verdict | None] = [None] * len(part)
        verdicts = guarded.judge(features, questions) if kind == "tokens" else nothing
        prompts = [
            guarded.prompt(question, verdict, intervention=kind)
            for question, verdict in zip(questions, verdicts, strict=True)
        ]
        made = model.compose(features, prompts, use_tokens=tokens)
        hidden = model.backbone.hidden(made.embeds, made.mask, made.positions)
        states.append(hidden[:, -1].cpu())  # padded on the left
    return torch.cat(states)


def _projected(model: PsaVlm, features: Any) -> tuple[Tensor, Tensor | None]:
    """h_s without the head's own tokens, and which of its places are real."""
    patches, real, views = model.read_by_head(features)
    keys, real_keys = model.safety.keys(patches, real=real, views=views)
    own = model.safety.tokens.s_head
    count = 0 if own is None else len(own)
    return keys[:, count:], None if real_keys is None else real_keys[:, count:]


def _mean(values: Tensor, real: Tensor | None) -> Tensor:
    if real is None:
        return values.double().mean(1)
    weight = real.to(values.device)[..., None].double()
    return (values.double() * weight).sum(1) / weight.sum(1)


def _pieces(values: Sequence[Any], size: int, what: str) -> Iterator[Any]:
    with progress(what, len(values)) as tick:
        for first in range(0, len(values), size):
            yield values[first : first + size]
            tick(min(first + size, len(values)), "done")
