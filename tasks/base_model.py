"""Base model: the VLM before any alignment. Trained here for the tiny world, or taken by name.

The tiny one shows the disease: it refuses text that names a risk and obeys the same risk in a
picture. It is an ordinary LLaVA folder (save_pretrained), read like any other.
"""

from pathlib import Path

from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import BaseConfig
from schemas.errors import ConfigError
from tasks.progress import progress

VERSION = 1
ALBUM = 12_000
LESSON_IMAGES = 16
FOLDER = "model"


def base_model(config: BaseConfig, *, store: Store) -> Artifact:
    """The base model as a LLaVA folder `model/` inside the artifact."""
    if config.kind == "pretrained":
        return _pretrained(config, store)
    return store.artifact(
        "base_model", VERSION, config=config, build=lambda folder: _train(config, folder / FOLDER)
    )


def _pretrained(config: BaseConfig, store: Store) -> Artifact:
    from model.pretrained import copy_pretrained, pretrained_identity

    if not config.name:
        raise ConfigError("base kind 'pretrained' needs `name`: a LLaVA folder or a hub name")
    return store.artifact(
        "base_model",
        VERSION,
        config=config,
        inputs=pretrained_identity(config.name, config.revision),
        build=lambda folder: copy_pretrained(config.name, config.revision, folder / FOLDER),
    )


def _train(config: BaseConfig, folder: Path) -> dict[str, int]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        return _train_and_save(config, folder)
    finally:
        torch.set_num_threads(threads)


def _train_and_save(config: BaseConfig, folder: Path) -> dict[str, int]:
    import torch

    from model import pretrain
    from model.tiny_llava import new_llava, new_processor, new_tokenizer
    from tasks.tiny_world.lessons import CLASSES, album, lessons

    pictures = album(ALBUM, config.seed)
    taught = lessons(pictures.scenes, images=LESSON_IMAGES, seed=config.seed)
    tokenizer = new_tokenizer(_corpus(pictures.scenes, config.seed))
    processor = new_processor(tokenizer)
    llava = new_llava(config, tokenizer)
    look = processor.image_processor
    pixels = pretrain.normalise(torch.from_numpy(pictures.pixels), look.image_mean, look.image_std)
    with progress("base model: seeing", config.vision_steps) as tick:
        pretrain.train_vision(
            llava,
            pixels,
            torch.from_numpy(pictures.attributes),
            CLASSES,
            steps=config.vision_steps,
            batch=config.vision_batch,
            seed=config.seed,
            report=lambda done, loss: tick(done, f"loss {loss:.3f}"),
        )
    with torch.no_grad():
        features = torch.cat([pretrain.tower_features(llava, part) for part in pixels.split(256)])
    batches = (
        [
            (index, [_prompt(*pair, image=index >= 0) for pair in _pairs(items)])
            for index, items in b
        ]
        for b in taught
    )
    with progress("base model: speaking", config.language_steps) as tick:
        pretrain.train_language(
            llava,
            tokenizer,
            features,
            batches,
            steps=config.language_steps,
            report=lambda done, loss: tick(done, f"loss {loss:.3f}"),
        )
    llava.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return {"parameters": sum(p.numel() for p in llava.parameters())}


def _pairs(items: list) -> list[tuple[str, str]]:
    return [(item.question, item.comply or item.answer) for item in items]


def _prompt(question: str, answer: str, *, image: bool) -> tuple[str, str]:
    """The LLaVA v1 turn after `USER:` and the picture: see model/batches.py."""
    return ("\n" if image else " ") + f"{question} ASSISTANT:", f" {answer}"


def _corpus(scenes: list, seed: int) -> list[str]:
    """Texts for the tokenizer's merges: some hundred turns of every kind."""
    from tasks.tiny_world.lessons import lessons

    turns = []
    for batch, _ in zip(lessons(scenes, images=32, seed=seed + 1), range(128), strict=False):
        for index, items in batch:
            for question, answer in _pairs(items):
                turns.append("USER:" + "".join(_prompt(question, answer, image=index >= 0)))
    return turns
