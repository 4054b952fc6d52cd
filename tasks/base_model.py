"""Base model: the VLM before any alignment. Trained here for the tiny world, or taken by name.

The tiny one shows the disease: it refuses text that names a risk and obeys the same risk in a
picture. It is an ordinary LLaVA folder (save_pretrained), read like any other.
"""

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.files import Files
from infra.identity import Folder
from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import BaseConfig
from schemas.errors import ConfigError
from tasks.progress import progress

if TYPE_CHECKING:
    from tasks.tiny_world.language import Item
    from tasks.tiny_world.lessons import Album
    from tasks.tiny_world.scenes import Scene

VERSION = 1
ALBUM = 12_000
LESSON_IMAGES = 16
FOLDER = "model"


def base_model(config: BaseConfig, *, store: Store) -> Artifact:
    """The base model as a folder `model/` of transformers' own format inside the artifact."""
    if config.kind == "pretrained":
        return _pretrained(config, store)
    return store.artifact(
        "base_model",
        VERSION,
        config=config,
        inputs=libraries(),
        build=lambda folder: _train(config, folder / FOLDER),
    )


def libraries() -> dict[str, str]:
    """Versions of the libraries that decide a trained model's bits: part of its fingerprint."""
    return {name: version(name) for name in ("torch", "transformers", "peft")}


def known_as(store: Store, base: Artifact) -> tuple[str, str]:
    """A base's name and revision: a hub model's own, else its address within the root."""
    manifest = store.manifest(base)
    if "hub" in manifest.inputs:
        return manifest.inputs["hub"], manifest.inputs["commit"]
    return f"{base.step}/{base.fingerprint}", ""


def _pretrained(config: BaseConfig, store: Store) -> Artifact:
    from model.pretrained import copy_pretrained, pretrained_identity

    if not config.name:
        raise ConfigError(
            "base kind 'pretrained' needs `name`: a model's folder, s3://bucket/folder or hub name"
        )
    if "://" in config.name:
        return _from_bucket(config, store)
    identity = pretrained_identity(config.name, config.revision)
    # The commit that was resolved, not the branch: it may have moved since.
    revision = identity.get("commit", config.revision)
    return store.artifact(
        "base_model",
        VERSION,
        config=config,
        inputs=identity,
        build=lambda folder: copy_pretrained(config.name, revision, folder / FOLDER),
    )


def _from_bucket(config: BaseConfig, store: Store) -> Artifact:
    """A model folder in a bucket: known by its objects' sizes and ETags, fetched only if new.

    Raises:
        ConfigError: another scheme, no such folder, or a model in a form that is not read.
        StorageError: the endpoint cannot be read.
    """
    from model.pretrained import SAFE_FILES, SETTINGS, check_settings, check_weights, read_settings

    bucket = config.name.rstrip("/")
    if not bucket.startswith("s3://") or config.revision:
        raise ConfigError(
            f"base {config.name!r}, revision {config.revision!r}: of addresses only "
            "s3://bucket/folder is read, and it has no revisions; a revision is for hub names"
        )
    parent, _, name = bucket.rpartition("/")
    files, stamp = Files.at(parent), Folder(bucket).stamp
    names = [n for n in files.sizes(name) if any(Path(n).match(p) for p in SAFE_FILES)]
    if SETTINGS not in names:
        raise ConfigError(f"base {config.name!r} holds no {SETTINGS}: give a model's own folder")
    check_weights(config.name, files.sizes(name))

    def fetch(folder: Path) -> dict[str, int]:
        files.download(name, folder / FOLDER, names=names)
        check_settings(config.name, read_settings(folder / FOLDER / SETTINGS))
        return {"files": len(names)}

    identity = {n: str(stamp(n)) for n in names}
    return store.artifact("base_model", VERSION, config=config, inputs=identity, build=fetch)


def _train(config: BaseConfig, folder: Path) -> dict[str, int]:
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(config.threads)
    try:
        return _train_and_save(config, folder)
    finally:
        torch.set_num_threads(threads)


def _train_and_save(config: BaseConfig, folder: Path) -> dict[str, int]:
    from model.tiny_llava import new_llava, new_processor, new_tokenizer
    from tasks.tiny_world.lessons import album

    pictures = album(ALBUM, config.seed)
    tokenizer = new_tokenizer(_corpus(pictures.scenes, config.seed))
    processor = new_processor(tokenizer)
    llava = new_llava(config, tokenizer)
    features = _teach_to_see(config, llava, processor, pictures)
    _teach_to_speak(config, llava, tokenizer, features, pictures.scenes)
    llava.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return {"parameters": sum(p.numel() for p in llava.parameters())}


def _teach_to_see(config: BaseConfig, llava: Any, processor: Any, pictures: "Album") -> Any:
    """Train the vision tower; returns its features [N, P, V] of all pictures."""
    import torch

    from model import pretrain
    from tasks.tiny_world.lessons import CLASSES

    look = processor.image_processor
    pixels = pretrain.normalise(torch.from_numpy(pictures.pixels), look.image_mean, look.image_std)
    attributes = torch.from_numpy(pictures.attributes)
    with progress("base model: seeing", config.vision_steps) as tick:
        pretrain.train_vision(
            llava,
            pretrain.Pictures(pixels, attributes, CLASSES),
            steps=config.vision_steps,
            batch=config.vision_batch,
            seed=config.seed,
            report=lambda done, loss: tick(done, f"loss {loss:.3f}"),
        )
    with torch.no_grad():
        return torch.cat([pretrain.tower_features(llava, part) for part in pixels.split(256)])


def _teach_to_speak(
    config: BaseConfig, llava: Any, tokenizer: Any, features: Any, scenes: list["Scene"]
) -> None:
    from model import pretrain
    from tasks.tiny_world.lessons import lessons

    batches = (
        [(index, _turns(items, image=index >= 0)) for index, items in batch]
        for batch in lessons(scenes, images=LESSON_IMAGES, seed=config.seed)
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


def _turns(items: list["Item"], *, image: bool) -> list[tuple[str, str]]:
    """LLaVA v1 turns after `USER:` and the picture (model/prompts.py), answered compliantly."""
    lead = "\n" if image else " "
    return [(f"{lead}{i.question} ASSISTANT:", f" {i.comply or i.answer}") for i in items]


def _corpus(scenes: list["Scene"], seed: int) -> list[str]:
    """Texts for the tokenizer's merges: some hundred turns of every kind."""
    from tasks.tiny_world.lessons import lessons

    batches = zip(lessons(scenes, images=32, seed=seed + 1), range(128), strict=False)
    return [
        f"USER:{question}{answer}"
        for batch, _ in batches
        for index, items in batch
        for question, answer in _turns(items, image=index >= 0)
    ]
