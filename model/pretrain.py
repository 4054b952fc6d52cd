"""Teaches the tiny LLaVA of model/tiny_llava.py to see and to speak, on the CPU, in minutes.

The vision tower learns by attribute heads on each 16-pixel cell of the layer that LLaVA reads; the
heads are thrown away. The language part then learns on the frozen tower's features. Three items
share one picture's tokens: each sees the picture and itself only, so that the loss is that of
three single prompts at half the tokens.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, PreTrainedTokenizerFast

Report = Callable[[int, float], None]
Lesson = tuple[int, Sequence[tuple[str, str]]]
IGNORE = -100


def normalise(pixels_NHWC: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 pixels [N, H, W, 3] -> CLIP's normalised floats [N, 3, H, W]."""
    scaled = (pixels_NHWC.float() / 255 - torch.tensor(mean)) / torch.tensor(std)
    return scaled.permute(0, 3, 1, 2).contiguous()


def tower_features(llava: LlavaForConditionalGeneration, pixels_N3HW: Tensor) -> Tensor:
    """Patch features [N, P, V] of layer -2, CLS dropped, without running the last layer."""
    tower = llava.model.vision_tower
    hidden = tower.pre_layrnorm(tower.embeddings(pixels_N3HW))
    for layer in tower.encoder.layers[:-1]:
        hidden = layer(hidden, attention_mask=None)
    return hidden[:, 1:]


@dataclass(frozen=True)
class Pictures:
    """Normalised pixels [N, 3, H, W], attributes [N, A, C cells], and classes per attribute."""

    pixels: Tensor
    attributes: Tensor
    classes: Sequence[int]


def train_vision(
    llava: LlavaForConditionalGeneration,
    pictures: Pictures,
    *,
    steps: int,
    batch: int,
    seed: int,
    report: Report,
) -> None:
    """Train the vision tower to tell the attributes of every cell."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    config: Any = llava.config
    heads = nn.ModuleList(nn.Linear(config.vision_config.hidden_size, n) for n in pictures.classes)
    weights = [torch.tensor([0.2] + [1.0] * (count - 1)) for count in pictures.classes]
    patches = _patches_of_cells(pictures.attributes)
    parameters = [*llava.model.vision_tower.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=3e-3, weight_decay=0.05, betas=(0.9, 0.98))
    for step in range(steps):
        index = torch.randint(len(patches), (batch,), generator=generator)
        features = tower_features(llava, pictures.pixels[index])
        targets = patches[index]
        losses = [
            F.cross_entropy(head(features).flatten(0, 1), targets[:, i].flatten(), weight=weight)
            for i, (head, weight) in enumerate(zip(heads, weights, strict=True))
        ]
        _update(torch.stack(losses).sum(), optimizer, parameters, step, steps, 3e-3)
        report(step + 1, float(losses[-1].detach()))


def _patches_of_cells(attributes_NAC: Tensor) -> Tensor:
    """A cell is 2 x 2 patches: [N, A, 16] -> [N, A, 64]."""
    count, attributes, cells = attributes_NAC.shape
    side = int(cells**0.5)
    grid = attributes_NAC.reshape(count, attributes, side, side)
    return grid.repeat_interleave(2, 2).repeat_interleave(2, 3).flatten(2)


def train_language(
    llava: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    features_NPV: Tensor,
    lessons: Iterable[Sequence[Lesson]],
    *,
    steps: int,
    report: Report,
) -> None:
    """Train projector and language model on lessons; the vision tower stays as it is."""
    parts = (llava.model.language_model, llava.model.multi_modal_projector, llava.lm_head)
    parameters = [p for part in parts for p in part.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=2e-3, weight_decay=0.01, betas=(0.9, 0.98))
    for step, batch in zip(range(steps), lessons, strict=False):
        loss = _lesson_loss(llava, tokenizer, features_NPV, batch)
        _update(loss, optimizer, parameters, step, steps, 2e-3)
        report(step + 1, float(loss.detach()))


def _update(
    loss: Tensor,
    optimizer: torch.optim.Optimizer,
    parameters: list[nn.Parameter],
    step: int,
    steps: int,
    peak: float,
) -> None:
    for group in optimizer.param_groups:
        group["lr"] = peak * min(1.0, (step + 1) / 30) * (1 - step / steps)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()


def _lesson_loss(
    llava: LlavaForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    features_NPV: Tensor,
    batch: Sequence[Lesson],
) -> Tensor:
    embed = llava.get_input_embeddings()
    rows = [_tokens(tokenizer, items) for _, items in batch]
    ids, labels, segments, places = (_pad(column) for column in zip(*rows, strict=True))
    pictures = [index for index, _ in batch]
    role = "USER: " if pictures[0] >= 0 else "USER:"
    role_ids = tokenizer(role, add_special_tokens=False)["input_ids"]
    prefix = embed(torch.tensor(role_ids)).expand(len(batch), -1, -1)
    if pictures[0] >= 0:
        image = llava.model.multi_modal_projector(features_NPV[torch.tensor(pictures)])
        prefix = torch.cat([prefix, image], dim=1)
    start = prefix.shape[1]
    hidden = llava.model.language_model(
        inputs_embeds=torch.cat([prefix, embed(ids)], dim=1),
        attention_mask=_segment_mask(segments, start),
        position_ids=torch.cat([torch.arange(start).expand(len(batch), -1), places + start], 1),
        use_cache=False,
    ).last_hidden_state[:, start:]
    labels = labels.masked_fill(segments == 0, IGNORE)
    taught = labels[:, 1:] != IGNORE
    return F.cross_entropy(llava.lm_head(hidden[:, :-1][taught]), labels[:, 1:][taught])


def _tokens(
    tokenizer: PreTrainedTokenizerFast, items: Sequence[tuple[str, str]]
) -> tuple[list[int], list[int], list[int], list[int]]:
    """Ids, labels, segment numbers from 1, and places within the own segment."""
    ids: list[int] = []
    labels: list[int] = []
    segments: list[int] = []
    places: list[int] = []
    for number, (question, answer) in enumerate(items, start=1):
        asked = tokenizer(question, add_special_tokens=False)["input_ids"]
        told = tokenizer(answer, add_special_tokens=False)["input_ids"]
        told.append(tokenizer.eos_token_id)
        ids += asked + told
        labels += [IGNORE] * len(asked) + told
        segments += [number] * (len(asked) + len(told))
        places += range(len(asked) + len(told))
    return ids, labels, segments, places


def _pad(rows: Sequence[list[int]]) -> Tensor:
    """Right-pad with 0; padding is recognised by segment 0."""
    return nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)


def _segment_mask(segments_BT: Tensor, start: int) -> Tensor:
    """Additive mask [B, 1, N, N]: causal; only the shared prefix and the own segment are seen."""
    prefix = segments_BT.new_zeros(len(segments_BT), start)
    segment = torch.cat([prefix, segments_BT], dim=1)
    real = torch.cat([torch.ones_like(prefix, dtype=torch.bool), segments_BT > 0], dim=1)
    length = segment.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    shared = torch.arange(length) < start
    seen = (segment[:, :, None] == segment[:, None, :]) | shared[None, None, :]
    seen = causal & seen & real[:, None, :] | torch.eye(length, dtype=torch.bool)
    return torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)[:, None]
