"""Bases by folder, hub and bucket: what is taken, and what is refused with the way out."""

import json
import shutil
from pathlib import Path

import boto3
import pytest
import torch
from safetensors.torch import save_file

from infra.store import Store
from model.backbone import Backbone
from model.backbones.llava import Llava
from model.backbones.registry import GROUP, family_of
from model.checkpoint import BaseReference, load_model, save_model
from model.guard import load_hints
from model.psavlm import PsaVlm
from model.tensors import read_tensors
from schemas.config import BaseConfig, MethodConfig, Stage
from schemas.errors import ConfigError, StorageError
from schemas.presets import Parameters, resolve
from schemas.taxonomy import load_taxonomy
from tasks.base_model import FOLDER, base_model, known_as
from tests.s3_server import BUCKET, s3_server
from tests.small_vlms import save

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def vlm(tmp_path_factory) -> Path:
    return save("llava_next", tmp_path_factory.mktemp("vlm") / "next")


def pretrained(name, **changes) -> BaseConfig:
    return BaseConfig(kind="pretrained", name=str(name), **changes)


def with_settings(folder: Path, **settings) -> Path:
    """A folder with a config.json and weights that nobody will open."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    (folder / "model.safetensors").write_bytes(b"")
    return folder


# --- formats that must be converted ---

ORIGINALS = [
    ({"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]}, "llava/convert_llava_w"),
    ({"model_type": "llava_llama", "mm_vision_tower": "clip"}, "llava/convert_llava_w"),
    (
        {"architectures": ["LlavaMistralForCausalLM"], "image_aspect_ratio": "anyres"},
        "llava_next/convert_llava_next_w",
    ),
]


@pytest.mark.parametrize(("settings", "converter"), ORIGINALS)
def test_a_checkpoint_of_the_original_code_names_its_converter(tmp_path, settings, converter):
    folder = with_settings(tmp_path / "theirs", **settings)
    for read in (
        lambda: base_model(pretrained(folder), store=Store(str(tmp_path / "store"))),
        lambda: Backbone.load(str(folder)),
    ):
        with pytest.raises(ConfigError, match=f"original LLaVA code.*{converter}eights_to_hf.py"):
            read()


def test_pickled_weights_are_never_opened(vlm, tmp_path):
    folder = tmp_path / "pickled"
    shutil.copytree(vlm, folder)
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch ran'\ntR.")
    with pytest.raises(ConfigError, match="only pytorch_model.bin: a pickle can run any code"):
        base_model(pretrained(folder), store=Store(str(tmp_path / "store")))
    with pytest.raises(StorageError, match="safetensors"):
        Backbone.load(str(folder))
    assert not Path("ran").exists()


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_config_that_is_none_is_told(vlm, tmp_path, text):
    folder = tmp_path / "broken"
    shutil.copytree(vlm, folder)
    (folder / "config.json").write_text(text)
    with pytest.raises(ConfigError, match="config.json"):
        base_model(pretrained(folder), store=Store(str(tmp_path / "store")))
    with pytest.raises(StorageError, match="no base model readable"):
        Backbone.load(str(folder))


def test_an_architecture_that_nobody_knows_names_those_that_are_known(tmp_path):
    folder = with_settings(tmp_path / "other", model_type="blip-2")
    with pytest.raises(ConfigError, match="'blip-2'.*llava, llava_next, qwen2_5_vl.*psavlm.backb"):
        Backbone.load(str(folder))


def put_down(folder: Path, backbone: Backbone, base: BaseReference) -> None:
    """A model with untrained modules on that base."""
    method, taxonomy = MethodConfig(tokens=2, attention_heads=4), load_taxonomy()
    save_model(
        folder,
        PsaVlm.new(backbone, method, types=len(taxonomy.types), levels=len(taxonomy.levels)),
        stage=Stage.CONCEPTS,
        method=method,
        taxonomy=taxonomy,
        hints=load_hints("default", taxonomy=taxonomy),
        base=base,
    )


def test_a_model_is_not_put_on_a_base_of_another_architecture(vlm, tmp_path):
    """Both are 32 wide, so that only the name tells them apart."""
    llava = Backbone.load(str(save("llava", tmp_path / "llava")))
    put_down(tmp_path / "model", llava, BaseReference(name="somebody/llava", revision="v1"))
    card = load_model(tmp_path / "model", llava)[1]
    assert (card.base.name, card.base.revision) == ("somebody/llava", "v1")
    with pytest.raises(ConfigError, match="somebody/llava' .llava, widths.*given llava_next"):
        load_model(tmp_path / "model", Backbone.load(str(vlm)))


def test_a_model_is_not_put_on_other_weights_of_the_same_shape(tmp_path):
    first, second = save("llava", tmp_path / "first"), save("llava", tmp_path / "second")
    tensors = read_tensors(second / "model.safetensors")
    table = next(name for name in tensors if name.endswith("embed_tokens.weight"))
    save_file(
        {**tensors, table: tensors[table] + 0.1}, second / "model.safetensors", {"format": "pt"}
    )
    put_down(tmp_path / "model", Backbone.load(str(first)), BaseReference(name="first"))
    load_model(tmp_path / "model", Backbone.load(str(first), dtype=torch.bfloat16))
    with pytest.raises(ConfigError, match="belongs to base 'first', and other weights"):
        load_model(tmp_path / "model", Backbone.load(str(second)))


@pytest.mark.parametrize("damage", ["missing", "cut", "shape"])
def test_damaged_weights_are_told_and_never_drawn_at_random(vlm, tmp_path, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(vlm, folder)
    file = folder / "model.safetensors"
    tensors = read_tensors(file)
    name = next(name for name in tensors if name.endswith("q_proj.weight"))
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-64])
    else:
        weight = tensors.pop(name)
        more = {name: weight[:-1]} if damage == "shape" else {}
        save_file({**tensors, **more}, file, {"format": "pt"})
    with pytest.raises(StorageError, match="no base model readable.*weights") as told:
        Backbone.load(str(folder))
    assert "\n" not in str(told.value)


# --- hub names ---


def test_a_hub_that_cannot_be_reached_says_what_to_do(tmp_path, monkeypatch):
    """A closed port in place of the hub: a real refused connection."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ConfigError) as told:
        base_model(pretrained("some/model", revision="v1"), store=Store(str(tmp_path / "store")))
    for words in ("HF_HUB_OFFLINE=0", "hf download some/model --revision v1 --local-dir FOLDER"):
        assert words in str(told.value)


@pytest.mark.parametrize(
    ("base", "name", "revision"),
    [
        ("llava-hf/llava-1.5-7b-hf@v2", "llava-hf/llava-1.5-7b-hf", "v2"),
        ("llava-hf/llava-1.5-7b-hf", "llava-hf/llava-1.5-7b-hf", ""),
        ("s3://bucket/a@b", "s3://bucket/a@b", ""),
        ("/models/a@b", "/models/a@b", ""),
    ],
)
def test_a_revision_is_given_behind_a_hub_name(base, name, revision):
    config = resolve(Parameters(base=base)).base
    assert (config.kind, config.name, config.revision) == ("pretrained", name, revision)


# --- buckets ---


@pytest.fixture(scope="module")
def bucket():
    with pytest.MonkeyPatch.context() as patch, s3_server() as settings:
        for name, value in settings.items():
            patch.setenv(name, value)
        yield boto3.client("s3", endpoint_url=settings["AWS_ENDPOINT_URL"])


def test_a_base_in_a_bucket_is_fetched_once_without_what_is_not_safe(bucket, vlm, tmp_path):
    for file in [*vlm.iterdir()]:
        bucket.upload_file(str(file), BUCKET, f"vlms/next/{file.name}")
    bucket.put_object(Bucket=BUCKET, Key="vlms/next/modeling_own.py", Body=b"raise SystemExit")
    store, config = Store(str(tmp_path / "store")), pretrained(f"s3://{BUCKET}/vlms/next/")
    made = base_model(config, store=store)
    folder = store.local(made) / FOLDER
    assert {f.name for f in folder.iterdir()} == {f.name for f in vlm.iterdir()}
    assert Backbone.load(str(folder)).config.model_type == "llava_next"
    assert base_model(config, store=store).reused
    assert known_as(store, made) == (f"base_model/{made.fingerprint}", "")
    bucket.put_object(Bucket=BUCKET, Key="vlms/next/note.json", Body=b"{}")
    changed = base_model(config, store=store)
    assert not changed.reused and changed.fingerprint != made.fingerprint


@pytest.mark.parametrize(
    ("name", "revision", "says"),
    [
        ("s3://artifacts/nothing", "", "holds no config.json"),
        ("s3://artifacts/vlms/next", "v1", "has no revisions"),
        ("gs://artifacts/next", "", "only s3://"),
    ],
)
def test_an_address_without_a_model_is_refused(bucket, tmp_path, name, revision, says):
    with pytest.raises(ConfigError, match=says):
        base_model(pretrained(name, revision=revision), store=Store(str(tmp_path / "store")))


# --- architectures of other packages ---

OTHER = '''
from model.backbones.llava import Llava
from model.templates import VICUNA


class Other(Llava):
    """A LLaVA asked in other words."""

    def choose_template(self):
        return VICUNA


not_a_class = 3
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A package with entry points, as pip would have left it."""

    def install(**points: str) -> None:
        found = tmp_path / "site" / "other-1.0.dist-info"
        found.mkdir(parents=True)
        (found / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
        lines = "\n".join(f"{name} = {value}" for name, value in points.items())
        (found / "entry_points.txt").write_text(f"[{GROUP}]\n{lines}\n")
        (tmp_path / "site" / "other_vlm.py").write_text(OTHER)
        monkeypatch.syspath_prepend(str(tmp_path / "site"))

    return install


def test_a_package_adds_an_architecture_by_an_entry_point(installed, tmp_path):
    with pytest.raises(ConfigError, match="'my_vlm' needs one backbone class and has 0"):
        family_of("my_vlm")
    installed(my_vlm="other_vlm:Other")
    family = family_of("my_vlm")
    assert issubclass(family, Llava) and family.__name__ == "Other"
    assert family_of("llava") is Llava


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ("other_vlm:Missing", "cannot be loaded"),
        ("no_such_module:Other", "cannot be loaded"),
        ("other_vlm:not_a_class", "no subclass"),
    ],
)
def test_an_entry_point_that_is_no_backbone_is_told(installed, value, says):
    installed(my_vlm=value)
    with pytest.raises(ConfigError, match=says):
        family_of("my_vlm")


def test_an_architecture_that_is_claimed_twice_is_refused(installed):
    installed(llava="other_vlm:Other")
    with pytest.raises(ConfigError, match="has 2; it is claimed by model.backbones.*other_vlm"):
        family_of("llava")
