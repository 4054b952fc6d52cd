"""A root and sources in a bucket on bad days: refused, throttled, cut off, never answered."""

import hashlib
import io
import itertools
import json
import logging
import os
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import boto3
import botocore.retryhandler
import numpy as np
import pyarrow as pa
import pytest

from infra import bucket, places
from infra import files as layer
from infra.doctor.services import root_folder
from infra.files import Files
from infra.library import Library
from infra.store import Store
from schemas.config import IngestConfig, SourceConfig
from schemas.errors import ConfigError, DataError, StorageError
from tasks.benchmarks.data import Data
from tasks.benchmarks.item import Item
from tasks.benchmarks.registry import BENCHMARKS
from tasks.examine.pictures import shown
from tasks.ingest import ingest
from tests.benchmark_folders import FOLDERS, ITEMS
from tests.s3_faults import WEATHER, Choose, Proxy, Weather, faulty
from tests.s3_server import BUCKET, s3_server
from tests.s3_traces import KEY, SECRET, leaks, made, planted, profile, psavlm
from tests.squares import squares

FILES = {"rows/a.bin": b"one" * 50_000, "rows/b.bin": b"two", "empty": b""}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    with s3_server() as given:
        yield given["AWS_ENDPOINT_URL"]


@pytest.fixture
def aws(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """The server, reached by settings as anybody's would be; no other setting of this machine."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in planted(server, tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    return server


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """botocore's pauses are its own matter, and take seconds."""
    monkeypatch.setattr(botocore.retryhandler, "delay_exponential", lambda *_, **__: 0.001)


@pytest.fixture
def behind(aws: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Choose], Proxy]]:
    """Puts a failing proxy between the store and the server."""
    opened = []

    def put(choose: Choose, *deaf: str) -> Proxy:
        opened.append(faulty(aws, choose, deaf=deaf))
        proxy = opened[-1].__enter__()
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
        return proxy

    yield put
    for one in opened:
        one.__exit__(None, None, None)


def build(folder: Path) -> dict[str, int]:
    for name, data in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return {"in": 3}


def never(folder: Path) -> dict[str, int]:
    raise AssertionError("built again")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def once(*kinds: str) -> Choose:
    """The first request of each method and path goes wrong, in these ways in turn."""
    met: set[tuple[str, str]] = set()
    left = itertools.cycle(kinds)

    def choose(method: str, path: str) -> str | None:
        new = (method, path) not in met
        met.add((method, path))
        return next(left) if new else None

    return choose


def in_turn(path_end: str, *kinds: str | None) -> Choose:
    """PUTs of one object go wrong in these ways, one after another."""
    left = list(kinds)

    def choose(method: str, path: str) -> str | None:
        return left.pop(0) if left and method == "PUT" and path.endswith(path_end) else None

    return choose


# --- what goes wrong once is tried again ---


@pytest.mark.parametrize("kinds", [("lost",), ("cut",), WEATHER])
def test_every_request_may_fail_once(behind, hurry, tmp_path, monkeypatch, kinds):
    proxy = behind(once(*kinds))
    store = Store(f"s3://{BUCKET}/{tmp_path.name}")
    artifact = store.artifact("step", 1, config={}, build=build)
    assert not artifact.reused
    assert store.artifact("step", 1, config={}, build=never).reused
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "of-another-machine"))
    assert contents(store.local(artifact)) == FILES
    assert store.verify(artifact).counts == {"in": 3}
    files = Files.at(store.root)
    folder = f"step/{artifact.fingerprint}"
    attempt = f"{folder}/attempts/{store.manifest(artifact).attempt}"
    assert files.found().keys() == {f"{folder}/manifest.json"} | {
        f"{attempt}/{name}" for name in FILES
    }
    files.remove_tree(folder)
    assert files.found() == {}
    assert all(proxy.met[kind] for kind in kinds) and proxy.met.total() - proxy.met[""] > 20


def test_a_put_whose_answer_is_lost_is_won_and_one_that_came_late_is_not(behind, hurry, tmp_path):
    behind(in_turn("/mine", "lost"))
    files = Files.at(f"s3://{BUCKET}/{tmp_path.name}")
    assert files.put("mine", b"mine", fresh=True)
    assert files.put("mine", b"mine", fresh=True)
    assert not files.put("mine", b"yours", fresh=True)
    assert files.read("mine") == b"mine"


def test_a_put_that_s3_has_not_decided_yet_is_asked_for_again(behind, tmp_path, monkeypatch):
    """The first one was stored, its answer lost; the second met the first one at work."""
    monkeypatch.setattr(bucket, "TRIES", 3)
    proxy = behind(in_turn("/mine", "lost", "undecided", "undecided"))
    files = Files.at(f"s3://{BUCKET}/{tmp_path.name}")
    assert files.put("mine", b"mine", fresh=True)
    assert proxy.met["undecided"] == 2
    behind(in_turn("/yours", *["undecided"] * 9))
    with pytest.raises(StorageError, match="cannot write yours"):
        Files.at(files.address).put("yours", b"x", fresh=True)


@pytest.mark.parametrize("kind", ["lost", "cut"])
def test_a_large_file_travels_in_parts_that_may_each_fail(
    behind, hurry, tmp_path, monkeypatch, kind
):
    monkeypatch.setattr(layer, "PART_BYTES", 5 * 2**20)  # the least that S3 takes
    data = np.random.default_rng(1).bytes(11 * 2**20)
    (tmp_path / "large").write_bytes(data)
    proxy = behind(once(kind))
    files = Files.at(f"s3://{BUCKET}/{tmp_path.name}")
    files.upload(tmp_path, "there", names=["large"])
    (tmp_path / "back").mkdir()
    files.download("there", tmp_path / "back", names=["large"])
    assert (tmp_path / "back/large").read_bytes() == data
    # As Ray Train writes checkpoints.
    with files.fs.open(f"{files.root}/there/streamed", "wb", block_size=5 * 2**20) as file:
        file.write(data)
    hashes = files.hashes("there", ["large", "streamed"])
    assert set(hashes.values()) == {hashlib.sha256(data).hexdigest()}
    assert proxy.met[kind] >= 6


def test_objects_that_a_removal_leaves_are_told(behind, tmp_path):
    behind(lambda method, path: "kept" if method == "POST" and "delete" in path else None)
    files = Files.at(f"s3://{BUCKET}/{tmp_path.name}")
    for name in ("a", "b"):
        files.put(f"tree/{name}", b"x", fresh=True)
    with pytest.raises(StorageError, match="cannot remove 2 of 2 files below tree .* may these"):
        files.remove_tree("tree")


# --- 5 % of calls, from a bucket to a bucket ---


def png(number: int) -> bytes:
    out = io.BytesIO()
    squares(number, colour="red", count=number % 5 + 1).save(out, "PNG")
    return out.getvalue()


def a_source(client: object, prefix: str, rows: int) -> IngestConfig:
    lines = ["question,type,level,image"]
    for n in range(rows):
        lines.append(f"how many in {n} ?,{'clean,' if n % 2 else 'privacy,high'},{n}.png")
        client.put_object(Bucket=BUCKET, Key=f"{prefix}/images/{n}.png", Body=png(n))
    client.put_object(Bucket=BUCKET, Key=f"{prefix}/t.csv", Body="\n".join(lines).encode())
    place = f"s3://{BUCKET}/{prefix}"
    return IngestConfig(
        sources=(SourceConfig(format="table", uri=f"{place}/t.csv", images=f"{place}/images"),)
    )


def test_ingest_in_bad_weather_ends_with_the_bytes_of_a_fine_day(behind, hurry, aws, tmp_path):
    config = a_source(boto3.client("s3"), f"{tmp_path.name}-in", rows=30)
    disk = Store(str(tmp_path / "disk"))
    ingest(config, store=disk)
    proxy = behind(Weather(0.05, seed=5))
    store = Store(f"s3://{BUCKET}/{tmp_path.name}")
    store.check()
    ids = sorted(hashlib.sha256(bytes([n])).hexdigest() for n in range(9))
    for root in (disk, store):
        for first in range(0, 9, 3):
            index = pa.table({"id": ids[first : first + 3]})
            Library(root, "things", 1).add(index, lambda folder: (folder / "x").write_text("x"))
        assert Library(root, "things", 1).missing(ids) == []
    samples = ingest(config, store=store)
    assert samples.counts["accepted"] == 30
    assert ingest(config, store=store).reused
    assert made(store) == made(disk)
    assert len(made(store)) >= 5
    assert proxy.met.total() - proxy.met[""] >= 5


# --- what goes on going wrong ends in one message ---


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("slow down", "overloaded or failing"),
        ("internal error", "overloaded or failing"),
        ("bad gateway", "overloaded or failing"),
        ("broken", "breaks off"),
        ("cut", "cut short, try after try"),
    ],
)
def test_what_never_gets_better_is_given_up_and_told(behind, hurry, tmp_path, kind, says):
    files = Files.at(f"s3://{BUCKET}/{tmp_path.name}")
    files.put("a", b"some text", fresh=True)
    proxy = behind(lambda method, path: kind)
    with pytest.raises(StorageError, match=f"cannot read a in the store .*{says}") as told:
        Files.at(files.address).read("a")
    assert proxy.met.total() <= 2 * 18  # aiohttp asks a closed connection's question once more
    assert SECRET not in str(told.value) and told.value.__suppress_context__


def test_an_endpoint_that_never_answers_is_given_up(behind, hurry, tmp_path):
    proxy = behind(lambda method, path: "silent")
    quick = {"read_timeout": 0.2, "retries": {"mode": "legacy", "total_max_attempts": 2}}
    files = Files.at(f"s3://{BUCKET}/{tmp_path.name}", config_kwargs=quick)
    with pytest.raises(StorageError, match="breaks off"):
        files.read("a")
    assert proxy.met.total() == 6


def test_a_refusal_is_not_tried_again(behind, tmp_path):
    proxy = behind(lambda method, path: None)
    ask_for_keys(proxy.address, after=b"0")
    proxy.met.clear()
    try:
        with pytest.raises(StorageError, match="refuses these credentials"):
            Store(f"s3://{BUCKET}/{tmp_path.name}").check()
        with pytest.raises(StorageError, match="refuses these credentials"):
            places.open_file(f"s3://{BUCKET}/a.csv")
    finally:
        asked = proxy.met.total()
        ask_for_keys(proxy.address, after=b"inf")
    assert asked <= 3


def ask_for_keys(endpoint: str, *, after: bytes) -> None:
    """Make the server check credentials after so many requests."""
    headers = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", after, headers)
    urllib.request.urlopen(request).close()


def test_a_source_whose_endpoint_dies_in_mid_file_is_no_bad_data(behind, hurry, aws, tmp_path):
    config = a_source(boto3.client("s3"), f"{tmp_path.name}-in", rows=1)
    seen: Counter[str] = Counter()

    def choose(method: str, path: str) -> str | None:
        seen[method] += path.endswith("t.csv")
        return "broken" if method == "GET" and path.endswith("t.csv") else None

    behind(choose)
    with pytest.raises(StorageError, match=r"cannot read .*t\.csv.* breaks off"):
        ingest(config, store=Store(str(tmp_path / "store")))
    assert seen["GET"] > 1


def test_an_empty_image_in_a_bucket_is_a_bad_row_like_one_on_disk(aws, tmp_path):
    client = boto3.client("s3")
    config = a_source(client, f"{tmp_path.name}-in", rows=2)
    client.put_object(Bucket=BUCKET, Key=f"{tmp_path.name}-in/images/0.png", Body=b"")
    samples = ingest(config, store=Store(str(tmp_path / "store")))
    assert (samples.counts["accepted"], samples.counts["rejected"]) == (1, 1)


# --- a store without a conditional put ---


def test_a_benchmarks_folder_in_a_bucket_is_read_as_on_a_disk(aws, tmp_path):
    client, place = boto3.client("s3"), f"s3://{BUCKET}/{tmp_path.name}"
    for name, make in FOLDERS.items():
        make(tmp_path / name)
        for file in (tmp_path / name).rglob("*"):
            if file.is_file():
                key = f"{tmp_path.name}/{file.relative_to(tmp_path)}"
                client.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())
        found = []
        for folder in (str(tmp_path / name), f"{place}/{name}"):
            data = Data(name, folder, BENCHMARKS[name].layout)
            assert data.identity.startswith("etag:" if "://" in folder else "sha256:")
            items = [one for one in BENCHMARKS[name].read(data) if isinstance(one, Item)]
            found.append([(i.id, i.prompt, getattr(shown(i), "image_id", "")) for i in items])
        assert found[0] == found[1] and len(found[0]) == ITEMS[name]
    with pytest.raises(DataError, match="holds one .tsv"):
        list(BENCHMARKS["mmbench"].read(Data("mmbench", f"{place}/pope", "one .tsv")))


def test_a_store_that_ignores_if_none_match_is_told_with_what_to_do(behind, tmp_path):
    behind(lambda method, path: None, "if-none-match")
    root = f"s3://{BUCKET}/{tmp_path.name}"
    assert "run one pipeline at a time on it" in Store(root).check()
    check = root_folder(root)
    assert (check.state, check.remedy) == ("warn", "run one pipeline at a time on it")


# --- secrets ---


@pytest.mark.parametrize(
    "uri", ["s3://{key}:{secret}@bucket/a.csv", "https://{key}:{secret}@host/a.csv"]
)
def test_an_address_with_a_secret_is_refused_without_repeating_it(uri):
    with pytest.raises(ConfigError) as told:
        places.expand(uri.format(key=KEY, secret=SECRET))
    assert KEY not in str(told.value) and SECRET not in str(told.value)


@pytest.mark.slow
def test_what_commands_write_holds_no_credentials(aws, behind, tmp_path, monkeypatch):
    """Keys in a profile's file; one command that succeeds, one without its bucket.

    The endpoint ignores If-None-Match, which the command that may write tells.
    """
    profile(tmp_path / "home", monkeypatch)
    config = a_source(boto3.client("s3"), f"{tmp_path.name}-in", rows=4)
    behind(lambda method, path: None, "if-none-match")
    source = f"format=table,uri={config.sources[0].uri},images={config.sources[0].images}"
    here, root = tmp_path / "here", f"s3://{BUCKET}/{tmp_path.name}"
    here.mkdir()
    done = psavlm(here, "ingest", "--source", source, "--root", root, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["accepted"] == 4
    assert done.stderr.count(f"{root} ignores If-None-Match") == 1
    assert "run one pipeline" in done.stderr
    failed = psavlm(here, "ingest", "--source", source, "--root", "s3://no-such-bucket/x")
    assert failed.returncode == 2 and "create the bucket" in failed.stderr
    stored = Files.at(root)
    texts = {path: stored.read(path) for path in stored.found()}
    said = {
        f"{name} of {one.args[1]}": getattr(one, name).encode()
        for one in (done, failed)
        for name in ("stdout", "stderr")
    }
    assert len(texts) > 3
    assert leaks(here, Path(os.environ["PSAVLM_CACHE"]), also={**texts, **said}) == []
