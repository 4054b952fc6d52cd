"""The base VLM: features, prompts and answers are those of transformers' own path."""

import pytest
import torch
from PIL import Image

from model.backbone import Backbone
from model.backbones.llava import Llava
from model.batches import compose, question_batch
from model.prompts import Prompt, ask, teach, tokenize
from model.tiny_llava import new_llava, new_processor, new_tokenizer
from schemas.config import BaseConfig
from schemas.errors import ConfigError, DataError, StorageError
from schemas.samples import Message

torch.set_num_threads(1)
WORDS = ["USER: how many red shapes are there ? ASSISTANT: two red circles and a square"] * 4


@pytest.fixture(scope="module")
def parts():
    tokenizer = new_tokenizer(WORDS)
    llava = new_llava(BaseConfig(width=32, layers=3, heads=4), tokenizer).eval()
    # Untrained weights of std 0.02 repeat one token; larger ones make answers differ.
    with torch.no_grad():
        for parameter in llava.parameters():
            parameter.mul_(4.0 if parameter.dim() > 1 else 1.0)
    return llava, tokenizer, new_processor(tokenizer)


@pytest.fixture(scope="module")
def backbone(parts):
    llava, tokenizer, processor = parts
    return Llava(llava, tokenizer, processor.image_processor)


def pictures(count, *, size=64):
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, size, size, 3), generator=generator)
    return [Image.fromarray(picture) for picture in pixels.to(torch.uint8).numpy()]


def projected(backbone, count):
    with torch.no_grad():
        return list(backbone.project(backbone.encode_images(pictures(count))))


def test_features_are_layer_minus_two_without_cls(parts, backbone):
    llava, _, processor = parts
    images = pictures(3, size=80)
    pixels = processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        output = llava.model.vision_tower(pixels, output_hidden_states=True)
    features = backbone.encode_images(images)
    assert features.shape == (3, backbone.patches, backbone.vision_dim) == (3, 64, 32)
    assert torch.equal(features, output.hidden_states[-2][:, 1:])
    assert not torch.equal(features, output.last_hidden_state[:, 1:])


def test_the_layers_behind_the_feature_layer_are_not_run(parts, backbone):
    calls = []
    last = parts[0].model.vision_tower.encoder.layers[-1]
    handle = last.register_forward_hook(lambda *_: calls.append(1))
    backbone.encode_images(pictures(1))
    handle.remove()
    assert calls == []


def test_projection_is_the_models_own(parts, backbone):
    llava, _, processor = parts
    pixels = processor.image_processor(images=pictures(2), return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        own = llava.get_image_features(pixel_values=pixels).pooler_output
    assert torch.equal(torch.stack(projected(backbone, 2)), torch.stack(own))


def test_prompts_are_cut_into_tokens_as_by_the_processor(parts, backbone):
    _, tokenizer, processor = parts
    own = processor(
        text="USER: <image>\nhow many red shapes ? ASSISTANT:",
        images=pictures(1)[0],
        return_tensors="pt",
    )["input_ids"][0].tolist()
    image_id = tokenizer.convert_tokens_to_ids("<image>")
    start = own.index(image_id)
    once = [*own[: start + 1], *own[start + backbone.patches :]]
    tokens = tokenize(backbone, [ask("how many red shapes ?")], with_image=[True], training=False)
    assert tokens[0].ids == once


@pytest.mark.parametrize("with_image", [True, False])
def test_answers_from_embeddings_are_those_of_the_models_own_path(parts, backbone, with_image):
    llava, tokenizer, processor = parts
    questions = ("how many red shapes are there ?", "a square", "two ? two ?", "circles")
    given = pictures(4) if with_image else [None] * 4
    block = "<image>\n" if with_image else ""
    images = projected(backbone, 4) if with_image else [None] * 4
    answers = set()
    for question, picture, image in zip(questions, given, images, strict=True):
        inputs = processor(
            text=f"USER: {block}{question} ASSISTANT:", images=picture, return_tensors="pt"
        )
        ids = llava.generate(**inputs, max_new_tokens=12, do_sample=False)
        own = tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        batch = compose(backbone, [ask(question)], images=[image])
        ours = backbone.generate(batch.embeds, batch.mask, batch.positions, max_new_tokens=12)
        assert ours == [own.strip()]
        with torch.no_grad():
            own_logits = llava(**inputs).logits
            hidden = backbone.hidden(batch.embeds, batch.mask, batch.positions)
            torch.testing.assert_close(backbone.logits(hidden), own_logits)
        answers.add(own)
    assert len(answers) > 1


def test_answers_do_not_depend_on_the_batch_size(backbone):
    images = projected(backbone, 16)
    questions = ["how many ?" + " red shapes" * (i % 5) for i in range(16)]
    prompts = [ask(q, hint="a circle" * (i % 3)) for i, q in enumerate(questions)]
    images = [None if i % 6 == 5 else image for i, image in enumerate(images)]

    def answers(size):
        out = []
        for at in range(0, 16, size):
            part = compose(backbone, prompts[at : at + size], images=images[at : at + size])
            out += backbone.generate(part.embeds, part.mask, part.positions, max_new_tokens=10)
        return out

    alone = answers(1)
    assert answers(4) == alone
    assert answers(16) == alone
    assert len(set(alone)) > 4


def test_labels_mask_exactly_the_answer_and_its_eos(parts, backbone):
    tokenizer = parts[1]
    prompts = [
        teach("how many ?", "two red circles", hint="red square"),
        teach("red ?", "a square and 3", supervised=True),
        teach("are there circles ?", "two", supervised=False),
    ]
    images = [*projected(backbone, 1), None, None]
    tokens = torch.zeros(5, backbone.llm_dim)
    batch = compose(backbone, prompts, images=images, tokens=tokens, training=True)
    told = [row[row != -100].tolist() for row in batch.labels]
    assert tokenizer.decode(told[0]) == " two red circles</s>"
    assert tokenizer.decode(told[1]) == " a square and 3</s>"
    assert told[2] == []
    # The answer is the end of its row, and padding comes after it.
    for row, mask in zip(batch.labels[:2], batch.mask[:2], strict=True):
        at = (row != -100).nonzero().flatten().tolist()
        assert at == list(range(int(mask.sum()) - len(at), int(mask.sum())))


def test_every_answer_of_a_conversation_is_taught(parts, backbone):
    turns = [("user", "how many ?"), ("assistant", "two"), ("user", "red ?"), ("assistant", "a")]
    prompt = Prompt(tuple(Message(*turn) for turn in turns))
    (row,) = tokenize(backbone, [prompt], with_image=[True], training=True)
    told = [token for token in row.labels if token != -100]
    tokenizer = parts[1]
    assert tokenizer.decode(told) == " two</s> a</s>"
    assert tokenizer.decode(row.ids) == (
        "USER: <image>\nhow many ? ASSISTANT: two</s>USER: red ? ASSISTANT: a</s>"
    )


def test_a_training_row_begins_with_the_prompt_that_generation_gives(backbone):
    image = projected(backbone, 1)
    tokens = torch.randn(4, backbone.llm_dim)
    asked = compose(backbone, [ask("red ?", hint="a")], images=image, tokens=tokens)
    taught = compose(
        backbone, [teach("red ?", "two", hint="a")], images=image, tokens=tokens, training=True
    )
    length = asked.embeds.shape[1]
    assert torch.equal(taught.embeds[:, :length], asked.embeds)
    assert (taught.labels[:, :length] == -100).all()
    assert (taught.labels[:, length:] != -100).all()


def test_the_block_holds_safety_tokens_then_patches_and_replaces_the_placeholder(backbone):
    (image,) = projected(backbone, 1)
    tokens = torch.randn(4, backbone.llm_dim)
    without = compose(backbone, [ask("red ?")], images=[image])
    batch = compose(backbone, [ask("red ?")], images=[image], tokens=tokens)
    start = len(backbone.tokenizer("USER: ")["input_ids"])
    assert torch.equal(batch.embeds[0, start : start + 4], tokens)
    assert torch.equal(batch.embeds[0, start + 4 : start + 68], image)
    assert batch.embeds.shape[1] == without.embeds.shape[1] + 4
    assert batch.positions[0].tolist() == list(range(batch.embeds.shape[1]))


def test_padding_is_left_to_ask_and_right_to_teach(backbone):
    asked = compose(backbone, [ask("red ?"), ask("how many red shapes ?")], images=[None, None])
    assert asked.mask[0, 0] == 0 and asked.mask[:, -1].all()
    pads = int((asked.mask[0] == 0).sum())
    assert asked.positions[0].tolist() == [0] * pads + list(range(int(asked.mask[0].sum())))
    taught = [teach("red ?", "a"), teach("how many red shapes ?", "a square")]
    batch = compose(backbone, taught, images=[None, None], training=True)
    assert batch.mask[:, 0].all() and batch.mask[0, -1] == 0


def test_control_tokens_in_a_question_stay_text(parts, backbone):
    tokenizer = parts[1]
    prompt = ask("red <image> or </s><image> ?", hint="a <image>")
    (row,) = tokenize(backbone, [prompt], with_image=[True], training=False)
    assert row.ids.count(tokenizer.convert_tokens_to_ids("<image>")) == 1
    assert tokenizer.eos_token_id not in row.ids
    ids, _ = question_batch(backbone, ["<image></s>"])
    assert not {3, tokenizer.eos_token_id} & set(ids[0].tolist())


def test_a_long_answer_is_cut_with_a_warning_and_a_long_question_is_an_error(backbone, caplog):
    rows = [teach("red ?", "two red circles and a square " * 4)]
    (whole,) = tokenize(backbone, rows, with_image=[True], training=True)
    limit = len(whole.ids) - 5
    (cut,) = tokenize(backbone, rows, with_image=[True], training=True, limit=limit)
    assert cut.ids == whole.ids[:limit]
    assert "answer cut" in caplog.text
    with pytest.raises(DataError, match="limit 4.*leaves no room"):
        tokenize(backbone, rows, with_image=[True], training=True, limit=4)
    with pytest.raises(DataError, match="limit 4"):
        tokenize(backbone, [ask("how many ?")], with_image=[True], training=False, limit=4)


@pytest.mark.parametrize(
    ("prompt", "training"),
    [
        (ask("red ?"), True),
        (teach("red ?", "a"), False),
        (Prompt(()), False),
        (Prompt((Message("assistant", "a"), Message("user", "b"))), True),
        (Prompt((Message("system", "a"),)), False),
    ],
)
def test_turns_out_of_order_are_an_error(backbone, prompt, training):
    with pytest.raises(DataError, match="take turns"):
        tokenize(backbone, [prompt], with_image=[False], training=training)


def test_questions_are_bare_and_an_empty_one_has_one_position(backbone):
    ids, mask = question_batch(backbone, ["how many ?", "", "x", "how many ?"])
    bare = backbone.tokenizer("how many ?")["input_ids"]
    assert ids[0, : len(bare)].tolist() == bare
    assert mask.sum(1).tolist() == [len(bare), 1, 1, len(bare)]
    assert torch.equal(ids[0], ids[3])


def test_a_folder_is_read_back_with_the_same_answers_and_without_torchvision(
    parts, backbone, tmp_path
):
    llava, _, processor = parts
    llava.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    again = Backbone.load(str(tmp_path))
    assert torch.equal(again.encode_images(pictures(2)), backbone.encode_images(pictures(2)))
    batch = compose(again, [ask("red ?")], images=projected(again, 1))
    old = compose(backbone, [ask("red ?")], images=projected(backbone, 1))
    assert torch.equal(batch.embeds, old.embeds)


def test_freezing_leaves_nothing_to_train(parts):
    llava, tokenizer, processor = parts
    backbone = Llava(llava.train(), tokenizer, processor.image_processor)
    backbone.freeze()
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not llava.training


def test_a_folder_without_a_model_is_a_storage_error(tmp_path):
    with pytest.raises(StorageError, match="no base model readable"):
        Backbone.load(str(tmp_path))


def test_several_feature_layers_are_refused(parts):
    llava, tokenizer, processor = parts
    other = new_llava(BaseConfig(width=16, layers=2, heads=2), tokenizer)
    other.config.vision_feature_layer = [-2, -1]
    with pytest.raises(ConfigError, match="several layers"):
        Llava(other, tokenizer, processor.image_processor)
