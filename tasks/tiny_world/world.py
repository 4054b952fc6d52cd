"""The tiny world on disk, in the published formats, to be read back by the ordinary readers."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

from infra.store import Store
from schemas.artifact import Artifact
from schemas.config import WorldConfig
from tasks.tiny_world.language import Item
from tasks.tiny_world.records import Record, make_records

VERSION = 1


def tiny_world(config: WorldConfig, *, store: Store) -> Artifact:
    """VLGuard JSON, LLaVA JSON and a WebDataset shard per split, with their images."""
    return store.artifact(
        "tiny_world", VERSION, config=config, build=lambda folder: _write(config, folder)
    )


def _write(config: WorldConfig, folder: Path) -> dict[str, int]:
    records = make_records(config)
    writers = {"vlguard": _vlguard, "llava": _llava}
    for split in ("train", "test"):
        for source, entry in writers.items():
            home = folder / source
            (home / "images").mkdir(parents=True, exist_ok=True)
            entries = []
            for number, record in enumerate(_of(records, source, split)):
                name = f"{split}-{number:05d}.png"
                (home / "images" / name).write_bytes(record.png)
                entries.append(entry(record, name))
            (home / f"{split}.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")
        _write_shard(
            folder / "webdataset" / f"{split}-00000.tar", _of(records, "webdataset", split)
        )
    return {"images": len(records), "items": sum(len(r.items) for r in records)}


def _of(records: list[Record], source: str, split: str) -> list[Record]:
    return [r for r in records if r.source == source and r.split == split]


def _notes(record: Record, item: Item) -> dict[str, object]:
    """What evaluation needs beside the answer: the compliant one, and which slice this is."""
    notes: dict[str, object] = {
        "judge": "exact_targets",
        "kind": item.kind,
        "style": record.style,
    }
    if item.comply:
        notes["comply"] = item.comply
    if record.scene.near_miss:
        notes["near_miss"] = True
    return notes


def _vlguard(record: Record, image: str) -> dict[str, object]:
    base: dict[str, object] = {"id": image.removesuffix(".png"), "image": image}
    if record.about_risk:
        label = f"{record.scene.family} {record.scene.level}"
        pairs = [_pair("instruction", record, item) for item in record.items]
        return {
            **base,
            "safe": False,
            "harmful_category": "sign",
            "harmful_subcategory": label,
            "instr-resp": pairs,
        }
    names = ("safe_instruction", "unsafe_instruction")
    pairs = [_pair(n, record, item) for n, item in zip(names, record.items, strict=False)]
    return {**base, "safe": True, "instr-resp": pairs}


def _pair(name: str, record: Record, item: Item) -> dict[str, object]:
    return {name: item.question, "response": item.answer, **_notes(record, item)}


def _llava(record: Record, image: str) -> dict[str, object]:
    (item,) = record.items
    return {
        "id": image.removesuffix(".png"),
        "image": image,
        "conversations": [
            {"from": "human", "value": f"<image>\n{item.question}"},
            {"from": "gpt", "value": item.answer},
        ],
        **_notes(record, item),
    }


def _write_shard(path: Path, records: Iterable[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for number, record in enumerate(records):
            (item,) = record.items
            risk_type, level = record.risk
            body = {
                "question": item.question,
                "answer": item.answer,
                "type": risk_type,
                "level": level,
                **_notes(record, item),
            }
            _add(tar, f"{number:06d}.png", record.png)
            _add(tar, f"{number:06d}.json", json.dumps(body).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
