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
from model.losses import IGNORED
from model.prompts import Prompt, Tokens, plain, tokenize


@dataclass(frozen=True)
class PromptBatch:
    """Embeds [B, N, D]; mask, positions and labels [B, N], labels -100 off the answers."""

    embeds: Tensor
    mask: Tensor
    positions: Tensor
    labels: Tensor


def compose(
    backbone: Backbone,
    prompts: Sequence[Prompt],
    *,
    images: Sequence[Tensor | None],
    tokens: Tensor | None = None,
    told: Sequence[Tensor | None] | None = None,
    training: bool = False,
    max_text_tokens: int | None = None,
) -> PromptBatch:
    """One batch: right-padded with labels when training, else left-padded for generation.

    Args:
        backbone: gives tokenizer and embedding table.
        prompts: B conversations, ending with an answer when training, else with a question.
        images: h_i [P, D] per prompt, or None for a question without an image.
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
    placeholder = backbone.llava.config.image_token_id
    rows, labels = [], []
    told = told or [None] * len(texts)
    for text, embeds, image, concept in zip(
        texts, _embed(backbone, texts), images, told, strict=True
    ):
        row, row_labels = embeds, torch.tensor(text.labels)
        if concept is not None:
            row, row_labels = _insert(row, row_labels, concept, at=text.asked)
        if image is not None:
            block = _block(image, tokens, like=embeds)
            at = text.ids.index(placeholder)
            gap = torch.full((len(block),), IGNORED)
            row = torch.cat([row[:at], block, row[at + 1 :]])
            row_labels = torch.cat([row_labels[:at], gap, row_labels[at + 1 :]])
        rows.append(row)
        labels.append(row_labels)
    return _pad(rows, labels, side="right" if training else "left")


def question_batch(backbone: Backbone, questions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Ids and mask [B, T] of the bare questions (no template, no hint), padded on the right.

    A question without a token is represented by the eos token: the head needs one position.
    """
    unique = list(dict.fromkeys(questions))
    bare = [plain(backbone, question) for question in unique]
    encoded = backbone.tokenizer(bare, add_special_tokens=False)["input_ids"]
    known = dict(zip(unique, encoded, strict=True))
    empty = [backbone.tokenizer.eos_token_id]
    rows = [torch.tensor(known[question] or empty) for question in questions]
    ids = pad_sequence(rows, batch_first=True, padding_value=0)
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    return ids.to(backbone.device), mask.bool().to(backbone.device)


def _embed(backbone: Backbone, texts: Sequence[Tokens]) -> tuple[Tensor, ...]:
    flat = torch.tensor([token for text in texts for token in text.ids])
    return backbone.embed(flat).split([len(text.ids) for text in texts])


def _insert(row: Tensor, labels: Tensor, block: Tensor, *, at: int) -> tuple[Tensor, Tensor]:
    """Embeddings [S, D] put into a row [N, D] before place `at`, nothing of them taught."""
    gap = torch.full((len(block),), IGNORED)
    row = torch.cat([row[:at], block.to(row), row[at:]])
    return row, torch.cat([labels[:at], gap, labels[at:]])


def _block(image: Tensor, tokens: Tensor | None, *, like: Tensor) -> Tensor:
    parts = [image] if tokens is None else [tokens, image]
    return torch.cat([part.to(like) for part in parts])


def _pad(rows: list[Tensor], labels: list[Tensor], *, side: str) -> PromptBatch:
    ones = [torch.ones(len(row), dtype=torch.long, device=row.device) for row in rows]
    mask = pad_sequence(ones, batch_first=True, padding_side=side)
    padded = pad_sequence(labels, batch_first=True, padding_value=IGNORED, padding_side=side)
    return PromptBatch(
        embeds=pad_sequence(rows, batch_first=True, padding_side=side),
        mask=mask,
        positions=(mask.cumsum(-1) - 1).clamp(min=0),
        labels=padded.to(mask.device),
    )
