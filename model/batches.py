"""Prompts to tensors: the image block, padding, positions.

The image block is [s_llm; h_i] (METHOD.md section 2) and takes the place of the one placeholder
token; all around it is the base's own text. Letters as in backbone.py; S is the number of safety
tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from model.backbone import Backbone
from model.features import ImageFeatures, rows_of
from model.losses import IGNORED
from model.prompts import Prompt, Tokens, plain, tokenize


@dataclass(frozen=True)
class PromptBatch:
    """Embeds [B, N, D]; mask, labels (-100 off the answers) and positions [B, N].

    A base with several position axes has positions [axes, B, N].
    """

    embeds: Tensor
    mask: Tensor
    positions: Tensor
    labels: Tensor


def compose(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    *,
    images: Sequence[ImageFeatures | None],
    tokens: Tensor | None = None,
    told: Sequence[Tensor | None] | None = None,
    training: bool = False,
    max_text_tokens: int | None = None,
) -> PromptBatch:
    """One batch: right-padded with labels when training, else left-padded for generation.

    Args:
        backbone: gives tokenizer and embedding table.
        prompts: B conversations, ending with an answer when training, else with a question.
        images: h_i [P, D] per prompt (`Backbone.project`), or None for a question without one.
        tokens: s_llm [S, D], put in front of every image.
        told: per prompt a concept's tokens [S, D], put behind its first question, or None.
        training: right padding; otherwise left.
        max_text_tokens: limit of a conversation's text tokens (see `tokenize`).

    Raises:
        DataError: turns out of order, a prompt over the limit, or nothing left of an answer.
    """
    texts = tokenize(
        backbone,
        prompts,
        with_image=[image is not None for image in images],
        training=training,
        limit=max_text_tokens,
    )
    return compose_texts(
        backbone, texts, images=images, tokens=tokens, told=told, training=training
    )


def compose_texts(
    backbone: Backbone,
    texts: Sequence[Tokens],
    *,
    images: Sequence[ImageFeatures | None],
    tokens: Tensor | None = None,
    told: Sequence[Tensor | None] | None = None,
    training: bool = False,
) -> PromptBatch:
    """The same of conversations that are cut into tokens already."""
    placeholder = backbone.config.image_token_id
    told, rows = told or [None] * len(texts), []
    for text, embeds, image, concept in zip(
        texts, _embed(backbone, texts), images, told, strict=True
    ):
        row = _Row(embeds, torch.tensor(text.labels), torch.zeros(len(text.ids), dtype=torch.long))
        if concept is not None:
            row = row.put(concept, at=slice(text.asked, text.asked))
        if image is not None:
            at = text.ids.index(placeholder)
            row = row.put(rows_of(image), at=slice(at, at + 1), kind=1)
            row = row if tokens is None else row.put(tokens, at=slice(at, at))
        rows.append(row)
    given = [image for image in images if image is not None]
    return _pad(backbone, rows, given, side="right" if training else "left")


def question_batch(backbone: Backbone, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, T] of the bare questions (no template, no hint), padded on the right.

    A question without a token is represented by the eos token: the head needs one position.
    """
    unique = list(dict.fromkeys(questions))
    bare = [plain(backbone, question) for question in unique]
    encoded = backbone.tokenizer(bare, add_special_tokens=False)["input_ids"]
    known = dict(zip(unique, encoded, strict=True))
    empty = [backbone.tokenizer.eos_token_id]
    rows = [known[question] or empty for question in questions]
    lengths = [len(row) for row in rows]
    longest = max(lengths)
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.arange(longest) < torch.tensor(lengths)[:, None]
    return ids.to(backbone.device), mask.to(backbone.device)


def _embed(backbone: Backbone, texts: Sequence[Tokens]) -> tuple[Tensor, ...]:
    flat = torch.tensor([token for text in texts for token in text.ids])
    return backbone.embed(flat).split([len(text.ids) for text in texts])


@dataclass(frozen=True)
class _Row:
    """One prompt: embeds [N, D]; labels and kinds [N], kind 1 at h_i and 0 elsewhere."""

    embeds: Tensor
    labels: Tensor
    kinds: Tensor

    def put(self, block: Tensor, *, at: slice, kind: int = 0) -> "_Row":
        """Embeddings [S, D] in the place of a slice of the row, nothing of them taught."""

        def spliced(own: Tensor, insert: Tensor) -> Tensor:
            return torch.cat([own[: at.start], insert, own[at.stop :]])

        return _Row(
            spliced(self.embeds, block.to(self.embeds)),
            spliced(self.labels, torch.full((len(block),), IGNORED)),
            spliced(self.kinds, torch.full((len(block),), kind)),
        )


def _pad(
    backbone: Backbone, rows: list[_Row], images: list[ImageFeatures], *, side: str
) -> PromptBatch:
    ones = [torch.ones(len(row.kinds), dtype=torch.long, device=row.embeds.device) for row in rows]
    mask = pad_sequence(ones, batch_first=True, padding_side=side)
    labels = [row.labels for row in rows]
    padded = pad_sequence(labels, batch_first=True, padding_value=IGNORED, padding_side=side)
    kinds = pad_sequence([row.kinds for row in rows], batch_first=True, padding_side=side)
    return PromptBatch(
        embeds=pad_sequence([row.embeds for row in rows], batch_first=True, padding_side=side),
        mask=mask,
        positions=backbone.positions(mask, kinds.to(mask.device), images),
        labels=padded.to(mask.device),
    )
