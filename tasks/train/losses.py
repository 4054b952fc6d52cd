"""Each part's loss of a global batch: this worker's share of it, micro-batch by micro-batch.

A micro-batch gives its part of the whole batch's mean: sums are divided by the counts of all
workers, which are known beforehand. So the loss does not depend on how a batch is cut.
"""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from model.losses import IGNORED, head_loss, label_weight
from model.precision import autocast
from schemas.config import PartConfig
from tasks.train.data import Item
from tasks.train.showing import prompt_of
from tasks.train.worker import Worker

Loss = Callable[[Worker, list[Item], int, PartConfig], Iterator[Tensor]]


def concept_losses(
    worker: Worker, items: list[Item], step: int, part: PartConfig
) -> Iterator[Tensor]:
    """Both heads' cross-entropy of the items that have an image; no language model is run."""
    config, device = worker.job.config, worker.model.backbone.device
    seen = [item for item in items if item.image_id is not None]
    types = torch.tensor([item.risk_type for item in seen], dtype=torch.long, device=device)
    levels = torch.tensor([item.risk_level for item in seen], dtype=torch.long, device=device)
    of_types, of_levels = worker.class_weights or (None, None)
    whole = _total(torch.stack([label_weight(types, of_types), label_weight(levels, of_levels)]))
    patches = worker.data.features.patches([str(item.image_id) for item in seen])
    lengths = [len(item.question) for item in seen]
    for some in cut((patches + lengths).tolist(), part.micro_batch):
        own = [seen[i] for i in some]
        with worker.meter.waiting():
            features = worker.data.images(own)
        with autocast(config, device):
            logits = worker.model.concept_logits(features, [item.question for item in own])
            type_sum, _ = head_loss(logits[0], types[some], of_types)
            level_sum, _ = head_loss(logits[1], levels[some], of_levels)
        worker.meter.add(
            seen=len(own),
            types_right=(logits[0].detach().argmax(-1) == types[some]).sum(),
            levels_right=(logits[1].detach().argmax(-1) == levels[some]).sum(),
            positions=int(patches[some].sum()),
            padded=len(own) * int(patches[some].max()),
        )
        yield config.concept_weight * (type_sum / whole[0] + level_sum / whole[1])


def language_losses(
    worker: Worker, items: list[Item], step: int, part: PartConfig
) -> Iterator[Tensor]:
    """Cross-entropy of the answers' tokens, through the language model."""
    config, device = worker.job.config, worker.model.backbone.device
    prompts = [prompt_of(worker, item, step, part) for item in items]
    images = [item.image_id for item in items]
    texts = worker.model.tokenize(images, prompts, max_text_tokens=config.max_text_tokens)
    count = sum(label != IGNORED for text in texts for label in text.labels[1:])
    whole = _total(torch.tensor(float(count), device=device))
    lengths = [len(text.ids) for text in texts]
    seen = [i for i, name in enumerate(images) if name is not None]
    patches = worker.data.features.patches([str(images[i]) for i in seen])
    for i, more in zip(seen, patches.tolist(), strict=True):
        lengths[i] += more
    for some in cut(lengths, part.micro_batch):
        with worker.meter.waiting():
            features = worker.data.features_of([items[i] for i in some])
        with autocast(config, device):
            sums = worker.model.answer_sums(
                features, [prompts[i] for i in some], [texts[i] for i in some]
            )
        worker.meter.add(tokens=sums.tokens, tokens_right=sums.right)
        worker.meter.add(positions=sums.positions, padded=sums.padded)
        yield sums.total / whole


def joint_losses(
    worker: Worker, items: list[Item], step: int, part: PartConfig
) -> Iterator[Tensor]:
    """Both losses of the same items (METHOD.md section 3)."""
    yield from concept_losses(worker, items, step, part)
    yield from language_losses(worker, items, step, part)


def cut(lengths: Sequence[int], size: int | None) -> list[list[int]]:
    """The places of a batch's items in micro-batches of at most `size`, the longest items first.

    A batch that need not be cut keeps its order.
    """
    places = list(range(len(lengths)))
    if size is None or size >= len(places):
        return [places] if places else []
    places.sort(key=lambda place: -lengths[place])
    return [places[first : first + size] for first in range(0, len(places), size)]


def _total(counts: Tensor) -> Tensor:
    """Counts summed over all workers; 1 where nothing is counted, as they divide a sum of zeros."""
    total = counts.detach().float().clone()
    if dist.is_initialized():
        dist.all_reduce(total)
    return torch.where(total > 0, total, 1.0)


LOSSES: dict[str, Loss] = {
    "concept": concept_losses,
    "tokens": language_losses,
    "joint": joint_losses,
    "lora": language_losses,
    "full": language_losses,
}
