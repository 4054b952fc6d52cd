"""`psavlm show`, `verify` and `gc`, on disk and in a bucket: what is found, and what stays."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from flows.cli.gc import seconds
from flows.cli.main import main
from infra.cache import INCOMING
from infra.clearing import clear
from infra.decisions import deciding
from infra.files import Files
from infra.garbage import Scan
from infra.holder import Lease
from infra.lease import leased, living
from infra.library import INDEX, Library
from infra.parts import write_parts
from infra.store import Store
from schemas.artifact import Artifact
from schemas.errors import ConfigError
from tasks.encode import ENCODER, FEATURES, SHARD_VERSION, SHARDS
from tasks.references import REFERENCES
from tests.s3_server import BUCKET, s3_server
from tests.shelf import keep_images

DAY_S = 86400
OWNER, OTHER = "a" * 32, "b" * 32
# Dies in the middle of the work, as by a power cut.
KILLED = """
import os, signal, sys
from infra.store import Store

def build(folder):
    (folder / "half").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

Store(sys.argv[1]).artifact("step", 1, config={"killed": True}, build=build)
"""


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    from s3fs import S3FileSystem

    S3FileSystem.clear_instance_cache()  # an instance keeps the endpoint that it has seen first
    with s3_server() as settings:
        yield settings
    S3FileSystem.clear_instance_cache()


@pytest.fixture(params=["local", "s3"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    if request.param == "local":
        return Store(str(tmp_path / "store"))
    for name, value in request.getfixturevalue("bucket").items():
        monkeypatch.setenv(name, value)
    return Store(f"s3://{BUCKET}/{tmp_path.name}")


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    return Store(str(tmp_path / "store"))


@dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


@pytest.fixture
def psavlm(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., Said]:
    """The command in this process, as the installed script calls it."""

    def call(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["psavlm", *words])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        return Said(end.value.code or 0, *capsys.readouterr())

    return call


def make(store: Store, step: str, *, parents: dict | None = None, **config) -> Artifact:
    def build(folder: Path) -> dict[str, int]:
        (folder / "text").write_text(f"{step} {config}")
        return {"in": 3, "rejected": 0, "empty": 0}

    return store.artifact(step, 1, config=config, parents=parents, build=build)


def family(store: Store) -> dict[str, Artifact]:
    """Child of a parent and a grandparent; the parent is also of the grandparent."""
    first = make(store, "first", seed=1)
    second = make(store, "second", parents={"source": first}, ratio=0.5)
    third = make(store, "third", parents={"source": second, "base": first})
    return {"first": first, "second": second, "third": third}


def picture(colour: int) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (4, 4), (colour, colour, colour)).save(out, "PNG")
    return out.getvalue()


def snapshot(store: Store, *colours: int) -> Artifact:
    """An ingest artifact that names images, all of one new shard."""
    encoded = {hashlib.sha256(data).hexdigest(): data for data in map(picture, colours)}
    facts = keep_images(store, encoded)

    def build(folder: Path) -> dict[str, int]:
        write_parts(facts, folder / "images")
        return {"images": facts.num_rows}

    return store.artifact("ingest", 2, config={"colours": colours}, build=build)


def features(store: Store, samples: Artifact, *, encoder: str) -> Artifact:
    """An encode artifact of a snapshot's images."""
    index = pq.read_table(store.local(samples) / "images").select(["image_id"])
    index = index.replace_schema_metadata(None)
    rows = np.zeros((index.num_rows, 1, 2), dtype=np.float32)
    library = Library(store, SHARDS, SHARD_VERSION, encoder=encoder)
    library.add(index, lambda folder: np.save(folder / FEATURES, rows))

    def build(folder: Path) -> dict[str, int]:
        pq.write_table(index.replace_schema_metadata({ENCODER: encoder}), folder / INDEX)
        return {"images": index.num_rows}

    parents = {"samples": samples}
    return store.artifact("encode", 2, config={"by": encoder}, parents=parents, build=build)


def home(artifact: Artifact) -> str:
    return f"{artifact.step}/{artifact.fingerprint}"


def shards(store: Store, step: str) -> list[str]:
    return [f"{step}/{name}" for name in Files.at(store.root).folders(step)]


def listing(store: Store) -> list[str]:
    return list(Files.at(store.root).found())


def exists(store: Store, path: str) -> bool:
    return any(name == path or name.startswith(f"{path}/") for name in listing(store))


def kept(store: Store, shard: str) -> list[str]:
    """The ids in a shard."""
    files = Files.at(store.root)
    (path,) = [path for path in files.found() if path.startswith(shard) and path.endswith(INDEX)]
    return pq.read_table(io.BytesIO(files.read(path))).column(0).to_pylist()


def damage(store: Store, folder: str, name: str) -> str:
    """Change the last byte of a file; its size stays."""
    files = Files.at(store.root)
    (path,) = [p for p in files.found() if p.startswith(f"{folder}/") and p.endswith(f"/{name}")]
    data = files.read(path)
    files.put(path, data[:-1] + bytes([data[-1] ^ 1]), fresh=False)
    return path


def put(store: Store, path: str, data: bytes = b"something") -> None:
    files = Files.at(store.root)
    assert files.put(path, data, fresh=True)


def dead_lease(owner: str) -> bytes:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    mine = Lease.mine()
    return mine.model_copy(update={"owner": owner, "pid": gone.pid}).data()


def aged(folder: Path, *, by_s: float) -> None:
    """Let all that lies below a folder have been there for a while."""
    then = time.time() - by_s
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (then, then))


# --- show ---


def test_a_lineage_holds_every_ancestor_once_with_what_its_manifest_tells(store, psavlm):
    made = family(store)
    told = psavlm("show", home(made["third"]), "--root", store.root, "--json").json
    assert (told["root"], told["artifact"]) == (store.root, home(made["third"]))
    assert set(told["artifacts"]) == {home(one) for one in made.values()}
    for name, parents in {
        "first": {},
        "second": {"source": home(made["first"])},
        "third": {"source": home(made["second"]), "base": home(made["first"])},
    }.items():
        one = told["artifacts"][home(made[name])]
        assert (one["state"], one["parents"], one["files"]) == ("there", parents, 1)
        assert one["counts"] == {"in": 3, "rejected": 0, "empty": 0}
        assert one["created"] and one["seconds"] >= 0


def test_the_tree_is_printed_with_an_ancestor_s_own_branch_only_once(local, psavlm):
    made = family(local)
    said = psavlm("show", made["third"].uri)
    lines = said.out.splitlines()
    short = {name: f"{name} {one.fingerprint[:10]}" for name, one in made.items()}
    assert lines[0].startswith(short["third"])
    assert "in 3  rejected 0" in said.out and "empty" not in said.out
    assert sum(f"source: {short['first']}" in line for line in lines) == 1
    (again,) = [line for line in lines if f"base: {short['first']}" in line]
    assert again.endswith("(see above)")
    assert said.code == 0


def test_what_is_missing_or_damaged_is_marked_and_nothing_is_changed(store, psavlm):
    made = family(store)
    files = Files.at(store.root)
    files.remove(f"{home(made['first'])}/manifest.json")
    manifest = store.manifest(made["second"])
    files.remove(f"{home(made['second'])}/attempts/{manifest.attempt}/text")
    before = listing(store)
    words = ("show", home(made["third"]), "--root", store.root)
    found = psavlm(*words, "--json").json["artifacts"]
    states = {name.partition("/")[0]: one["state"] for name, one in found.items()}
    assert states == {"first": "missing", "second": "damaged", "third": "there"}
    assert found[home(made["second"])]["why"].endswith("text is missing")
    said = psavlm(*words).out
    assert f"second {made['second'].fingerprint[:10]}  DAMAGED" in said
    assert f"first {made['first'].fingerprint[:10]}  MISSING" in said
    assert listing(store) == before


def test_changes_are_told_against_the_artifact_of_the_step_that_was_finished_before(local, psavlm):
    sources = [make(local, "first", seed=seed) for seed in (1, 2)]
    made = [
        make(local, "second", parents={"source": sources[0]}, ratio=0.5, part={"steps": 3}),
        make(local, "second", parents={"source": sources[1]}, ratio=2.0, part={"steps": 3}),
    ]
    for artifact, day in zip(made, ("01", "02"), strict=True):
        path = Path(artifact.uri) / "manifest.json"
        manifest = json.loads(path.read_text()) | {"created": f"2030-01-{day}T00:00:00+00:00"}
        path.write_text(json.dumps(manifest))
    older, newer = (psavlm("show", one.uri, "--json").json["artifacts"][home(one)] for one in made)
    assert (older["against"], older["changes"]) == (None, {})
    assert newer["against"] == home(made[0])
    assert newer["changes"] == {
        "ratio": [0.5, 2.0],
        "parents.source": [home(one) for one in sources],
    }
    against = f"against second {made[0].fingerprint[:10]}: parents.source, ratio 0.5 → 2.0"
    assert against in psavlm("show", made[1].uri).out


def test_an_artifact_is_found_by_address_name_or_beginning(store, psavlm):
    made = family(store)["second"]
    start = made.fingerprint[:12]
    for text in (made.uri, home(made), f"second/{start}", start, made.fingerprint):
        assert psavlm("show", text, "--root", store.root, "--json").json["artifact"] == home(made)


@pytest.mark.parametrize("command", ["show", "verify"])
def test_an_artifact_that_is_none_or_several_is_told(local, psavlm, command):
    made = [make(local, "step", seed=seed) for seed in range(17)]  # two begin alike
    starts = [one.fingerprint[0] for one in made]
    twice = next(start for start in starts if starts.count(start) > 1)
    absent = "".join("1" if digit == "0" else "0" for digit in made[0].fingerprint)
    for text, kind, why in (
        (f"step/{twice}", "ConfigError", "give more of it"),
        (f"other/{twice}", "ConfigError", "is nothing there"),
        (f"step/{absent}", "StorageError", f"step/{absent}"),
        ("nothing at all", "ConfigError", "is no artifact"),
    ):
        said = psavlm(command, text, "--root", local.root)
        assert (said.code, said.out) == (2, "")
        assert said.err.startswith(f"{kind}: ") and why in said.err, said.err


# --- verify ---


def test_a_whole_root_is_hashed_with_its_shards(store, psavlm):
    family(store)
    features(store, snapshot(store, 1, 2), encoder="one")
    told = psavlm("verify", "--root", store.root, "--json")
    assert told.code == 0
    assert (told.json["damaged"], told.json["missing"]) == ([], [])
    assert told.json["artifacts"] == 3 + 2 + 2
    assert told.json["files"] == 3 + 2 + 2 * 2  # a shard has an index and what it keeps
    assert "7 artifacts, 9 files" in psavlm("verify", "--root", store.root).out


def test_it_tells_how_far_it_is(local, psavlm, monkeypatch):
    monkeypatch.setattr("tasks.progress.LINE_EVERY_S", 0.0)
    made = snapshot(local, 1, 2)
    lines = psavlm("verify", "--root", local.root).err.splitlines()
    assert [line.split("  ")[:2] for line in lines] == [
        ["verify", "1/2"], ["verify", "2/2"], ["verify images", "1/1"]
    ]  # fmt: skip
    assert lines[1].endswith(home(made))


def test_a_changed_byte_is_found_and_its_artifact_is_built_anew(store, psavlm):
    made = family(store)
    path = damage(store, home(made["first"]), "text")
    said = psavlm("verify", "--root", store.root)
    assert said.code == 1
    assert f"damaged  {home(made['first'])}: " in said.out and path in said.out
    assert "removed" in said.out
    assert store.find("first", made["first"].fingerprint) is None
    again = psavlm("verify", "--root", store.root, "--json")
    assert (again.code, again.json["damaged"]) == (0, [])
    assert {fault["artifact"] for fault in again.json["missing"]} == {
        home(made["second"]),
        home(made["third"]),
    }
    rebuilt = make(store, "first", seed=1)
    assert (rebuilt.reused, rebuilt.uri) == (False, made["first"].uri)
    assert psavlm("verify", "--root", store.root, "--json").json["missing"] == []


def test_a_manifest_that_tells_of_other_ingredients_is_damaged(local, psavlm):
    made = make(local, "step", seed=1)
    path = Path(made.uri) / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"config": {"seed": 2}}))
    said = psavlm("verify", "--root", local.root)
    assert said.code == 1 and "its ingredients make" in said.out
    assert not path.exists()


def test_some_artifacts_are_hashed_with_all_that_they_rest_on_and_no_others(store, psavlm):
    made, other = family(store), make(store, "other")
    mine = features(store, snapshot(store, 1), encoder="one")
    theirs = snapshot(store, 2)
    damage(store, home(other), "text")
    words = (home(made["third"]), home(mine), "--root", store.root, "--json")
    told = psavlm("verify", *words)
    assert (told.code, told.json["damaged"]) == (0, [])
    assert told.json["artifacts"] == 3 + 2 + 2
    damage(store, home(made["first"]), "text")
    assert psavlm("verify", *words).json["damaged"][0]["artifact"] == home(made["first"])
    assert exists(store, f"{home(other)}/manifest.json")
    assert psavlm("verify", home(theirs), "--root", store.root).code == 0


@pytest.mark.parametrize("named", [False, True], ids=["all", "named"])
@pytest.mark.parametrize(("step", "file"), [("images", "images.parquet"), (SHARDS, FEATURES)])
def test_a_damaged_shard_goes_with_all_that_name_its_things(store, psavlm, step, file, named):
    samples = [snapshot(store, 1, 2), snapshot(store, 2, 3)]
    made = {"ingest": samples, "encode": [features(store, one, encoder="e") for one in samples]}
    users = made["ingest" if step == "images" else "encode"]
    ids = sorted(hashlib.sha256(picture(colour)).hexdigest() for colour in (1, 2))
    (first,) = [name for name in shards(store, step) if kept(store, name) == ids]
    damage(store, first, file)
    said = psavlm("verify", *([home(users[0])] if named else []), "--root", store.root, "--json")
    assert said.code == 1
    damaged = [fault["artifact"] for fault in said.json["damaged"]]
    assert damaged == sorted([first, home(users[0])])
    (why,) = [f["why"] for f in said.json["damaged"] if f["artifact"] == home(users[0])]
    assert f"1 of its 2 {step} are in no shard" in why
    assert all(store.find(one.step, one.fingerprint) for one in made["ingest"] + made["encode"]
               if one is not users[0])  # fmt: skip


def test_ids_without_a_shard_condemn_the_snapshot_that_names_them(store, psavlm):
    samples = snapshot(store, 1)
    Files.at(store.root).remove_tree("images")
    said = psavlm("verify", home(samples), "--root", store.root, "--json")
    assert said.code == 1
    assert "1 of its 1 images are in no shard" in said.json["damaged"][0]["why"]
    assert not snapshot(store, 1).reused
    assert psavlm("verify", home(samples), "--root", store.root).code == 0


def test_features_of_another_encoder_do_not_stand_in(local, psavlm):
    samples = snapshot(local, 1)
    mine, other = (features(local, samples, encoder=name) for name in ("mine", "other"))
    for shard in shards(local, SHARDS):
        (path,) = Path(local.root, shard).glob("manifest.json")
        if json.loads(path.read_text())["config"]["encoder"] == "mine":
            shutil.rmtree(path.parent)
    told = psavlm("verify", "--root", local.root, "--json").json
    assert [fault["artifact"] for fault in told["damaged"]] == [home(mine)]
    assert local.find("encode", other.fingerprint)


def test_artifacts_of_two_roots_are_refused(local, tmp_path, psavlm):
    other = make(Store(str(tmp_path / "other")), "step")
    said = psavlm("verify", make(local, "step").uri, other.uri)
    assert said.code == 2 and "one root at a time" in said.err


@pytest.mark.parametrize("command", ["verify", "gc"])
def test_a_root_that_is_not_there_is_told(store, psavlm, command):
    said = psavlm(command, "--root", f"{store.root}-misspelt")
    assert said.code == 2 and "check --root" in said.err


# --- gc ---


def litter(store: Store) -> dict[str, set[str]]:
    """Garbage of every kind that any root may have: kind -> paths. Beside it things that stay."""
    kept = make(store, "step", seed=1)
    put(store, f"{home(kept)}/attempts/{OWNER}/text")
    put(store, f"{home(kept)}/attempts/{OWNER}/more/text")
    unfinished = f"step/{'0' * 24}"
    put(store, f"{unfinished}/lease.json", dead_lease(OTHER))
    put(store, f"{unfinished}/attempts/{OTHER}/text")
    hanging = make(store, "step", seed=2)
    put(store, f"{home(hanging)}/lease.json", dead_lease(OTHER))
    put(store, f"{home(hanging)}/lease-{OWNER}.json", dead_lease(OWNER))  # of a chain long gone
    put(store, f"runs/step-{kept.fingerprint}/checkpoint_1/data")
    lonely = shards(store, "images")
    keep_images(store, {hashlib.sha256(picture(9)).hexdigest(): picture(9)})
    (shard,) = set(shards(store, "images")) - set(lonely)
    return {
        "attempt": {f"{home(kept)}/attempts/{OWNER}"},
        "unfinished": {unfinished},
        "lease": {f"{home(hanging)}/lease.json"},
        "checkpoints": {f"runs/step-{kept.fingerprint}"},
        "shard": {shard},
    }


def treasure(store: Store) -> list[str]:
    """What gc must never touch: paths."""
    features(store, snapshot(store, 1, 2), encoder="one")
    put(store, "decisions/1.json")
    put(store, "seen/0123.parquet")
    put(store, f"runs/stage1-{'1' * 24}/checkpoint_1/data")
    put(store, f"strange/{'2' * 24}/file")
    put(store, "notes.txt")
    return listing(store)


def by_kind(told: dict) -> dict[str, set[str]]:
    kinds = {one["kind"] for one in told["items"]}
    return {k: {one["path"] for one in told["items"] if one["kind"] == k} for k in kinds}


def test_garbage_is_told_by_default_and_deleted_when_asked(store, psavlm):
    kept = treasure(store)
    garbage = litter(store)
    before = listing(store)
    words = ("gc", "--root", store.root, "--older-than", "0s")
    assert psavlm("verify", "--root", store.root).code == 0

    told = psavlm(*words, "--json").json
    assert by_kind(told) == garbage
    assert told["left"] == {}
    (attempt,) = [one for one in told["items"] if one["kind"] == "attempt"]
    assert (attempt["bytes"], attempt["deleted"]) == (18, False)
    said = psavlm(*words)
    assert "nothing was deleted" in said.out and listing(store) == before

    told = psavlm(*words, "--delete", "--json").json
    assert {one["kind"] for one in told["items"] if not one["deleted"]} == {"shard"}
    assert set(kept) <= set(listing(store))
    left = psavlm(*words, "--json").json
    assert by_kind(left) == {"shard": garbage["shard"]}

    assert "deleted: 1" in psavlm(*words, "--delete", "--shards").out
    assert "no garbage" in psavlm(*words).out
    assert psavlm("verify", "--root", store.root).code == 0
    assert make(store, "step", seed=1).reused and make(store, "step", seed=2).reused
    assert not any("lease" in name or OWNER in name for name in set(listing(store)) - set(kept))


def test_what_is_young_stays(store, psavlm):
    litter(store)
    before = listing(store)
    told = psavlm("gc", "--root", store.root, "--delete", "--shards", "--json").json
    assert (told["items"], told["left"]) == ([], {"too young": 5})
    assert listing(store) == before


def test_the_newest_file_says_how_old_a_thing_is(local, psavlm):
    made = make(local, "step")
    old, new = (f"{home(made)}/attempts/{owner}" for owner in (OWNER, OTHER))
    for path in (old, new):
        put(local, f"{path}/first/text")
    aged(Path(local.root), by_s=2 * DAY_S)
    os.utime(Path(local.root) / new / "first/text")
    for age, found in (("24h", {old}), ("47h", {old}), ("3d", set())):
        told = psavlm("gc", "--root", local.root, "--older-than", age, "--json").json
        assert by_kind(told).get("attempt", set()) == found


def test_what_a_living_run_is_about_stays(store, psavlm):
    garbage = litter(store)
    samples = snapshot(store, 1)
    files = Files.at(store.root)
    folders = [path for kind in ("unfinished",) for path in garbage[kind]]
    folders += [path.partition("/attempts")[0] for path in garbage["attempt"]]
    holder = Lease.mine()
    files.remove(f"{folders[0]}/lease.json")
    for folder in (*folders, home(samples)):
        put(store, f"{folder}/lease.json", holder.data())
    before = listing(store)
    words = ("gc", "--root", store.root, "--older-than", "0s", "--delete", "--shards", "--json")
    told = psavlm(*words).json
    # The attempt, its checkpoints, the unfinished one, three leases; and no shard of images.
    assert told["left"] == {"in use": 5, "images in use": 1}
    assert by_kind(told) == {"lease": garbage["lease"]}
    assert set(before) - set(listing(store)) == {
        path.replace("lease.json", name)
        for path in garbage["lease"]
        for name in ("lease.json", f"lease-{OWNER}.json")
    }


def test_no_clock_decides_that_images_are_unused(store, psavlm):
    """Somebody on another host, whose clock is an hour late, builds on what the library has."""
    samples = snapshot(store, 1)
    files = Files.at(store.root)
    files.remove(f"ingest/{samples.fingerprint}/manifest.json")
    there = Lease.mine().model_copy(update={"host": "another", "expires": time.time() - 3600})
    put(store, f"ingest/{'0' * 24}/lease.json", there.model_dump_json().encode())
    words = ("gc", "--root", store.root, "--older-than", "0s", "--json")
    told = psavlm(*words).json
    assert told["left"] == {"images in use": 1} and "shard" not in by_kind(told)
    files.remove(f"ingest/{'0' * 24}/lease.json")
    assert by_kind(psavlm(*words).json)["shard"] == set(shards(store, "images"))


def test_what_was_finished_since_the_listing_stays(store):
    litter(store)
    scan = Scan(store.root, older_than_s=0)
    found = [one for one in scan.garbage(REFERENCES) if one.kind in ("unfinished", "checkpoints")]
    (unfinished,) = [one for one in found if one.kind == "unfinished"]
    (run,) = [one for one in found if one.kind == "checkpoints"]
    files = Files.at(store.root)
    # Meanwhile somebody has finished the one, and the other's artifact was condemned.
    made = store.manifest(make(store, "step", seed=3))
    draft = made.model_copy(update={"fingerprint": "0" * 24, "attempt": OTHER})
    files.put(f"{unfinished.path}/manifest.json", draft.model_dump_json().encode(), fresh=True)
    files.remove(f"{run.artifact}/manifest.json")
    assert not any(one.deleted for one in clear(files, found, shards=False))
    assert exists(store, f"{unfinished.path}/attempts/{OTHER}") and exists(store, run.path)


def test_what_a_killed_builder_leaves_is_found_and_the_artifact_can_be_built(
    store, psavlm, tmp_path
):
    make(store, "step")
    done = subprocess.run([sys.executable, "-c", KILLED, store.root], check=False)
    assert done.returncode < 0
    kinds = {"unfinished", "copy"} if store.root.startswith("s3://") else {"unfinished"}
    words = ("gc", "--root", store.root, "--older-than", "0s", "--json")
    assert by_kind(psavlm(*words).json).keys() == kinds
    halves = [*tmp_path.rglob("half")]
    assert len(halves) == 1
    assert all(one["deleted"] for one in psavlm(*words, "--delete").json["items"])
    assert not halves[0].exists()
    assert [name for name in Files.at(store.root).folders("step")] == [
        make(store, "step").fingerprint
    ]
    assert make(store, "step", killed=True).reused is False


def test_copies_of_other_roots_and_of_named_attempts_stay(bucket, monkeypatch, tmp_path, psavlm):
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    mine, theirs = (Store(f"s3://{BUCKET}/{tmp_path.name}-{n}") for n in (1, 2))
    made, foreign = make(mine, "step", seed=1), make(theirs, "step", seed=2)
    named, other = mine.local(made), theirs.local(foreign)
    orphan = named.with_name(OWNER)
    shutil.copytree(named, orphan)
    incoming = [tmp_path / "cache" / INCOMING / owner for owner in (OWNER, OTHER)]
    for folder in incoming:
        folder.mkdir(parents=True)
        (folder / "text").write_text("half")
    aged(incoming[0], by_s=2 * DAY_S)
    words = ("gc", "--root", mine.root, "--older-than", "0s", "--delete", "--json")
    told = psavlm(*words).json
    assert by_kind(told) == {"copy": {str(orphan)}, "draft": {str(incoming[0])}}
    assert named.exists() and other.exists() and incoming[1].exists()
    assert not orphan.exists() and not incoming[0].exists()


def test_drafts_of_writes_go_when_they_are_old_and_those_of_an_hour_stay(local, psavlm):
    made = make(local, "step")
    folders = ["", f"{home(made)}/", "seen/", "decisions/", f"step/{'0' * 24}/"]
    old = {f"{folder}.name.json.{OWNER}" for folder in folders} | {f".probe-{OWNER}"}
    mine = {f"{home(made)}/attempts/{local.manifest(made).attempt}/.name.{OWNER}", "a/.x"}
    for path in [*old, *mine]:
        put(local, path)
    aged(Path(local.root), by_s=2 * DAY_S)
    young = f"seen/.name.json.{OTHER}"
    put(local, young)
    words = ("gc", "--root", local.root, "--older-than", "0s", "--delete", "--json")
    told = psavlm(*words).json
    assert by_kind(told) == {"draft": old}
    assert all(exists(local, path) for path in [*mine, young])
    assert not any(exists(local, path) for path in old)


def test_a_decider_that_died_leaves_a_lease_that_goes_and_decisions_that_stay(store, psavlm):
    make(store, "step")
    put(store, "decisions/1.json")
    put(store, "decisions/lease.json", dead_lease(OWNER))
    put(store, f"decisions/lease-{OWNER}.json", dead_lease(OTHER))
    words = ("gc", "--root", store.root, "--older-than", "0s", "--json")
    assert by_kind(psavlm(*words).json) == {"lease": {"decisions/lease.json"}}
    assert all(one["deleted"] for one in psavlm(*words, "--delete").json["items"])
    assert [name for name in listing(store) if "decisions/" in name] == ["decisions/1.json"]
    with deciding(store.root):
        assert psavlm(*words, "--delete").json["left"] == {"in use": 1}
        assert exists(store, "decisions/lease.json")


def test_empty_folders_of_builders_that_died_at_once_go(local, psavlm):
    made = make(local, "step")
    folders = [
        f"step/{'0' * 24}",
        f"other/{'1' * 24}/attempts/{OWNER}",
        f"{home(made)}/attempts/{OTHER}",
    ]
    for folder in folders:
        (Path(local.root) / folder).mkdir(parents=True)
    words = ("gc", "--root", local.root, "--older-than", "0s", "--delete", "--json")
    assert by_kind(psavlm(*words).json) == {
        "unfinished": {folders[0], f"other/{'1' * 24}"},
        "attempt": {folders[2]},
    }
    assert listing(local) == [name for name in listing(local) if name.startswith("step")]
    assert not any(exists(local, folder) for folder in folders)
    assert make(local, "step").reused


def test_nothing_is_called_garbage_that_a_damaged_manifest_may_name(store, psavlm):
    samples = snapshot(store, 1)
    put(store, f"{home(samples)}/attempts/{OWNER}/text")
    files = Files.at(store.root)
    files.put(f"{home(samples)}/manifest.json", b"{}", fresh=False)
    words = ("gc", "--root", store.root, "--older-than", "0s", "--delete", "--shards", "--json")
    told = psavlm(*words).json
    assert told["items"] == []
    assert told["left"] == {"damaged: psavlm verify": 1, "images damaged: psavlm verify": 1}
    assert psavlm("verify", "--root", store.root).code == 1
    assert by_kind(psavlm(*words).json).keys() >= {"unfinished", "shard"}
    assert not exists(store, "ingest") and not exists(store, "images")


def test_features_are_named_by_artifacts_of_their_encoder_alone(store, psavlm):
    samples = snapshot(store, 1)
    features(store, samples, encoder="one")
    old = shards(store, SHARDS)
    other = features(store, samples, encoder="two")
    Files.at(store.root).remove(f"encode/{other.fingerprint}/manifest.json")
    words = ("gc", "--root", store.root, "--older-than", "0s", "--json")
    assert by_kind(psavlm(*words).json)["shard"] == set(shards(store, SHARDS)) - set(old)


def test_a_lease_that_is_looked_at_is_not_changed(store):
    files = Files.at(store.root)
    with leased(files, "step/x") as (mine, _):
        assert living(files, "step/x").owner == mine.owner
    assert living(files, "step/x") is None
    files.put("step/y/lease.json", b"no lease", fresh=True)
    assert living(files, "step/y") is None
    assert files.read("step/y/lease.json") == b"no lease"


@pytest.mark.parametrize(
    ("text", "age"), [("0s", 0), ("90s", 90), ("30m", 1800), ("24h", DAY_S), ("7d", 7 * DAY_S)]
)
def test_an_age_is_a_number_with_its_unit(text, age):
    assert seconds(text) == age


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "1.5h", "1w", "9999999d"])
def test_an_age_that_is_none_is_told(text):
    with pytest.raises(ConfigError, match="--older-than"):
        seconds(text)
