"""RTVLM (red teaming of vision-language models): eleven subsets, each with keys of its own."""

import re
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import Any

from infra.places import Found, expand
from schemas.config import SourceConfig
from schemas.errors import DataError
from schemas.samples import ImageRef, RawRecord
from tasks.sources.fields import BadValue, image_refs, plain, question_answer, text, word
from tasks.sources.json_records import Items, json_records, lacking, parsed

# In the release's celebrity file the key of the label is itself a word of the vocabulary. Its value
# is the label: the authors' own test set gives these rows the level of the value.
LABEL_KEYS = ("refused_to_answer", "Refuse to Answer")
IMAGE = re.compile(r"[.](jpe?g|png|webp)$", re.IGNORECASE)


@dataclass(frozen=True)
class Form:
    """The keys of a subset."""

    question: str
    answer: str
    image: str


PROMPT = Form("prompt", "answer", "id")
FLAGS = Form("question", "answers", "img")
FORMS = {
    "captcha": Form("instruction", "answer", "id"),
    "celebrity": Form("instruction", "answer", "id"),
    "face_diffusion": PROMPT,
    "harmful": Form("questions", "answers", "index"),
    "jailbreak": Form("instruction", "answer", "index"),
    "order_A": FLAGS,
    "order_B": FLAGS,
    "politics": PROMPT,
    "racial": PROMPT,
    "visual_misleading_correct": FLAGS,
    "visual_misleading_wrong": FLAGS,
}
UNRATED = ("captcha",)  # the mapping gives its level
# The name of a subset's file where it differs, with the keys that it has there.
OTHER_NAMES = {"mixed": ("celebrity", PROMPT)}


def read(source: SourceConfig, *, max_bytes: int) -> Items:
    """RTVLM's JSON Lines, one file per subset, known by its name: the label is the subset.

    The level is the refusal label. `images` holds a folder per subset; ids and countries become
    file names. Each of the questions that a record of `harmful` lists is an item.

    Example: format=rtvlm,uri=RTVLM/*.jsonl,images=RTVLM
    """
    for file in expand(source.uri):
        subset, form = _subset(file)
        items = _each if subset == "harmful" else _single
        yield from json_records(file, partial(items, subset=subset, form=form))


def _subset(file: Found) -> tuple[str, Form]:
    """`captcha.jsonl` or `captcha_test.jsonl` -> captcha; DataError for any other name."""
    stem = PurePosixPath(file.name).stem.lower()
    known = {**{name: (name, form) for name, form in FORMS.items()}, **OTHER_NAMES}
    for name, found in known.items():
        if re.match(rf"{name.lower()}(?![a-z0-9])", stem):
            return found
    raise DataError(
        f"{file.uri!r}: no subset of RTVLM is called {stem!r}; a file is named after its subset: "
        f"{', '.join(known)}"
    )


def _each(item: dict[str, Any], key: str, *, subset: str, form: Form) -> Items:
    """The items of parallel lists: questions, answers, labels, and topics where these are many."""
    parallel = (form.question, form.answer, LABEL_KEYS[0])
    if refused := lacking(item, key, *parallel):
        yield refused
        return
    lists = {k: v for k, v in item.items() if isinstance(v, list)}
    lengths = [len(lists[k]) if k in lists else None for k in parallel]
    if None in lengths or len(set(lengths)) > 1:
        raise BadValue(f"{parallel} must be lists of one length, not {lengths}")
    for place in range(len(item[form.question])):
        own = {k: v[place] for k, v in lists.items() if len(v) == lengths[0]}
        one = partial(_single, subset=subset, form=form)
        yield from parsed({**item, **own}, f"{key}/{place + 1}", one)


def _single(item: dict[str, Any], key: str, *, subset: str, form: Form) -> Items:
    label = next((k for k in LABEL_KEYS if k in item), LABEL_KEYS[0])
    rated = () if subset in UNRATED else (label,)
    if refused := lacking(item, key, form.question, form.image, *rated):
        yield refused
        return
    used = (form.question, form.answer, LABEL_KEYS[0])
    gender = word(item.get("gender"))
    yield RawRecord(
        source_key=key,
        messages=question_answer(text(item[form.question]), text(item.get(form.answer))),
        images=_images(item[form.image], subset, form),
        label=subset,
        level=word(item.get(label)),
        slices={"subset": subset, **({"gender": gender} if gender else {})},
        extra={k: plain(v) for k, v in item.items() if k not in used},
    )


def _images(value: Any, subset: str, form: Form) -> tuple[ImageRef, ...]:
    """Ids (7, "7.jpg"), stems, and countries whose file names have no spaces; one or a list."""
    names = [word(one) for one in (value if isinstance(value, list) else [value])]
    if not all(names):
        raise BadValue(f"{form.image} {value!r:.80} does not name an image")
    if form is FLAGS:
        names = [name.replace(" ", "") for name in names]
    whole = [name if IMAGE.search(name) else f"{name}.jpg" for name in names]
    return image_refs([f"{subset}/{name}" for name in whole])
