"""PSA-VLM: a base VLM, its safety modules, and in stage 2 a LoRA adapter.

Both losses take h_o [B, P, V], the encoder's cached features, so that an image is encoded once for
all epochs, ratios and passes. Letters as in backbone.py.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from model.backbone import Backbone
from model.batches import PromptBatch, compose, compose_texts, question_batch
from model.features import Features, ImageFeatures, size_of, stacked
from model.losses import Answers, answer_sums, concept_loss
from model.packing import FLASH, attention_of, in_one_row
from model.projectors import Views
from model.prompts import Prompt, Tokens, teach, tokenize
from model.safety import SafetyModules
from schemas.config import MethodConfig
from schemas.errors import ConfigError


class PsaVlm(nn.Module):
    """Backbone and safety modules as one module; adapters live inside the backbone (lora.py)."""

    def __init__(self, backbone: Backbone, safety: SafetyModules) -> None:
        super().__init__()
        _ = backbone.digest  # of the base as it is, before anything trains or is put into shards
        self.backbone = backbone
        self.safety = safety
        # Whether items of a batch to learn from lie in one row (packing.py).
        self.packs = False
        # Operations of its training that have no kernel that repeats (tasks/train/repeat.py).
        self.unrepeatable: set[str] = set()

    @classmethod
    def new(
        cls, backbone: Backbone, method: MethodConfig, *, types: int, levels: int, seed: int = 0
    ) -> "PsaVlm":
        """Untrained safety modules drawn by `seed` around a base, which is frozen."""
        backbone.freeze()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            safety = SafetyModules(
                method,
                vision_dim=backbone.vision_dim,
                llm_dim=backbone.llm_dim,
                types=types,
                levels=levels,
            )
        return cls(backbone, safety.to(backbone.device))

    @property
    def trains_with(self) -> dict[str, str]:
        """What is unusual: the base's bits, attention's kernel, packing, what does not repeat."""
        told = {"base": "nf4"} if self.backbone.quantised else {}
        told |= {"unrepeatable": ", ".join(sorted(self.unrepeatable))} if self.unrepeatable else {}
        told |= {"attention": FLASH} if attention_of(self.backbone) == FLASH else {}
        return told | ({"packing": "on"} if self.packs else {})

    @property
    def has_head(self) -> bool:
        """Whether the model sees concepts by itself."""
        return self.safety.head is not None

    def concept_logits(
        self, features: Tensor | Sequence[ImageFeatures], questions: Sequence[str]
    ) -> tuple[Tensor, Tensor]:
        """Type logits [B, K] and level logits [B, L] of h_o [B, P, V]; no language model is run.

        Raises:
            ConfigError: the method has no head.
        """
        if not self.has_head:
            raise ConfigError(
                'this model has no safety head (method.head = "none"), so it sees no concepts: '
                "choose a method with a head, such as psa-vlm"
            )
        ids, mask = question_batch(self.backbone, questions)
        text = self.backbone.embed(ids)
        patches, real, views = self.read_by_head(features)
        return self.safety.concept_logits(patches, text, mask, real=real, views=views)

    def read_by_head(
        self, features: Tensor | Sequence[ImageFeatures]
    ) -> tuple[Tensor, Tensor | None, list[Views] | None]:
        """What the safety modules are given of h_o: itself [B, P, V], or h_i [B, P, D].

        With it which patches are real [B, P] (None if all are), and the grids of each image's views
        where they differ by image.
        """
        device = self.backbone.device
        if self.safety.reads_projected:
            return *stacked(self.backbone.project(features), device), None
        sizes = [] if isinstance(features, Tensor) else [size_of(image) for image in features]
        views = [self.backbone.grids(size) for size in sizes if size is not None]
        return *stacked(features, device), views or None

    def concept_batch_loss(
        self,
        features: Tensor | Sequence[ImageFeatures],
        questions: Sequence[str],
        types: Tensor,
        levels: Tensor,
        *,
        weight: float = 10.0,
    ) -> Tensor:
        """lambda (CE_type + CE_level) for h_o [B, P, V] and class numbers [B]."""
        type_logits, level_logits = self.concept_logits(features, questions)
        device = type_logits.device
        return concept_loss(
            type_logits, level_logits, types.to(device), levels.to(device), weight=weight
        )

    def language_batch_loss(
        self,
        features: Features,
        questions: Sequence[str],
        answers: Sequence[str],
        *,
        use_tokens: bool = True,
        max_text_tokens: int | None = None,
    ) -> Tensor:
        """Mean cross-entropy of the answers' tokens, through the language model."""
        prompts = [teach(q, a) for q, a in zip(questions, answers, strict=True)]
        total, count = self.language_batch_sum(
            features, prompts, use_tokens=use_tokens, max_text_tokens=max_text_tokens
        )
        return total / count.clamp(min=1)

    def language_batch_sum(
        self,
        features: Features,
        prompts: Sequence[Prompt],
        *,
        use_tokens: bool = True,
        max_text_tokens: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Summed cross-entropy and number of answer tokens."""
        texts = self.tokenize(features, prompts, max_text_tokens=max_text_tokens)
        sums = self.answer_sums(features, prompts, texts, use_tokens=use_tokens)
        return sums.total, sums.tokens

    def tokenize(
        self, features: Iterable[object], prompts: Sequence[Prompt], *, max_text_tokens: int | None
    ) -> list[Tokens]:
        """The conversations to learn from as tokens; of `features` it counts which are None."""
        return tokenize(
            self.backbone,
            prompts,
            with_image=[image is not None for image in features],
            training=True,
            limit=max_text_tokens,
        )

    def answer_sums(
        self,
        features: Features,
        prompts: Sequence[Prompt],
        texts: Sequence[Tokens],
        *,
        use_tokens: bool = True,
    ) -> Answers:
        """Summed cross-entropy and number of answer tokens, and what else `Answers` tells.

        Workers divide by the number of the whole global batch, so that the loss does not depend
        on how many there are.

        Args:
            features: h_o per prompt, or None for text alone.
            prompts: the conversations, for the concepts that they tell.
            texts: their tokens, of `tokenize`.
            use_tokens: with the safety tokens in their places.
        """
        batch = compose_texts(
            self.backbone,
            texts,
            images=self._project(features),
            tokens=self.safety.tokens.static if use_tokens else None,
            told=self._told(prompts) if use_tokens else None,
            training=True,
        )
        hidden, labels = self._states(batch)
        sums = answer_sums(hidden, labels, self.backbone.logits)
        total, positions = sums.total, batch.mask.sum()
        for tokens in self.safety.tokens.for_llm() if use_tokens else ():
            # A batch of text alone gives the tokens a gradient of zeros, not none at all: every
            # worker then has the same gradients to average.
            total = total + 0.0 * tokens.sum()
        padded = positions if self.packs else batch.mask.numel()
        return sums._replace(total=total, positions=positions, padded=padded)

    def _states(self, batch: PromptBatch) -> tuple[Tensor, Tensor]:
        """Last hidden states and labels of a batch, padded [B, N, .] or in one row [1, M, .]."""
        if not self.packs:
            return self.backbone.hidden(batch.embeds, batch.mask, batch.positions), batch.labels
        row = in_one_row(batch)
        return self.backbone.hidden(row.embeds, None, row.positions), row.labels

    def write(
        self,
        features: Features,
        prompts: Sequence[Prompt],
        *,
        use_tokens: bool = True,
        max_new_tokens: int = 64,
    ) -> list[str]:
        """Greedy answers to prompts; with `use_tokens` False and no adapter this is the base."""
        batch = self.compose(features, prompts, use_tokens=use_tokens)
        return self.backbone.generate(
            batch.embeds, batch.mask, batch.positions, max_new_tokens=max_new_tokens
        )

    def compose(
        self,
        features: Features,
        prompts: Sequence[Prompt],
        *,
        use_tokens: bool,
        training: bool = False,
        max_text_tokens: int | None = None,
    ) -> PromptBatch:
        """A prompt batch whose images are given as h_o [P, V], or None for text alone."""
        return compose(
            self.backbone,
            prompts,
            images=self._project(features),
            tokens=self.safety.tokens.static if use_tokens else None,
            told=self._told(prompts) if use_tokens else None,
            training=training,
            max_text_tokens=max_text_tokens,
        )

    def _told(self, prompts: Sequence[Prompt]) -> list[Tensor | None]:
        """The concept's tokens [S, D] of every prompt that tells one."""
        concepts = [prompt.concept for prompt in prompts if prompt.concept is not None]
        if not concepts:
            return [None] * len(prompts)
        if self.safety.tokens.by_type is None:
            raise ConfigError(
                "this model has no concept tokens to tell a concept with: train it with "
                "method.llm_tokens = \"concept\", or choose the intervention 'hint' or 'off'"
            )
        device = self.backbone.device
        types = torch.tensor([concept.types for concept in concepts], device=device)
        levels = torch.tensor([concept.levels for concept in concepts], device=device)
        told = iter(self.safety.tokens.told(types, levels))
        return [None if prompt.concept is None else next(told) for prompt in prompts]

    def _project(self, features: Features) -> list[ImageFeatures | None]:
        # One projection for the batch where grids are equal: per image it would cost a launch each.
        rows = list(features)
        given = [row for row in rows if row is not None]
        projected = iter(self.backbone.project(given)) if given else iter(())
        return [None if row is None else next(projected) for row in rows]
