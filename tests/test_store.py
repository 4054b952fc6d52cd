"""One body of tests for a local root and for a bucket behind a real HTTP server."""

import hashlib
import json
import logging
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import boto3
import pytest
from moto.server import DomainDispatcherApplication, ThreadedMotoServer, create_backend_app
from werkzeug.serving import make_server

from infra import integrity, lease
from infra.doctor.services import root_folder
from infra.files import Files
from infra.fingerprint import fingerprint
from infra.store import Store, open_artifact
from schemas.config import BalanceConfig
from schemas.errors import ConfigError, StorageError

FILES = {"rows/a.bin": b"one" * 50_000, "rows/b.bin": b"two", "empty": b""}
BUCKET = "artifacts"
SECRET = "not-to-be-told"
# Forks one child per moment; each child dies there by SIGKILL. Imports are paid once.
KILLED = """
import os, signal, sys
from infra.files import Files
from infra.store import Store

def mortal(name, moment):
    act = getattr(Files, name)
    def wrapped(self, path, *args, **kwargs):
        leaf = "files" if name == "upload" else path.rsplit("/", 1)[-1]
        if moment == f"amid {name} {leaf}":
            act(self, path, *args, names=kwargs["names"][:1])
        if moment in (f"before {name} {leaf}", f"amid {name} {leaf}"):
            os.kill(os.getpid(), signal.SIGKILL)
        result = act(self, path, *args, **kwargs)
        if moment == f"after {name} {leaf}":
            os.kill(os.getpid(), signal.SIGKILL)
        return result
    setattr(Files, name, wrapped)

def build(folder):
    (folder / "half").write_bytes(b"half")
    if moment == "in build":
        os.kill(os.getpid(), signal.SIGKILL)
    (folder / "half").rename(folder / "one")
    (folder / "two").write_bytes(b"two")
    return {}

for moment in sys.argv[2:]:
    if (child := os.fork()) == 0:
        for name in ("put", "upload", "remove"):
            mortal(name, moment)
        Store(sys.argv[1]).artifact("step", 1, config={"moment": moment}, build=build)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL, moment
"""
RIVALS = """
import os, sys, time
from infra.store import Store

def build(folder):
    time.sleep(0.3)
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    return {}

children = []
for _ in range(2):
    if (child := os.fork()) == 0:
        Store(sys.argv[1]).artifact("step", 1, config={}, build=build)
        os._exit(0)
    children.append(child)
assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
"""


@pytest.fixture(scope="module")
def endpoint():
    from s3fs import S3FileSystem

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    address = "http://{}:{}".format(*server.get_host_and_port())
    keys = {"aws_access_key_id": "key", "aws_secret_access_key": SECRET}
    s3 = boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys)
    s3.create_bucket(Bucket=BUCKET)
    S3FileSystem.clear_instance_cache()  # an instance keeps the endpoint that it has seen first
    yield address
    S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture
def aws(endpoint, monkeypatch, tmp_path):
    """Return the endpoint, reached by environment variables as anybody's would be."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "no-credentials"),
        "AWS_CONFIG_FILE": str(tmp_path / "no-config"),
    }.items():
        monkeypatch.setenv(name, value)
    return endpoint


@pytest.fixture(params=["local", "s3"])
def store(request, tmp_path, monkeypatch):
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    if request.param == "local":
        (tmp_path / "root").mkdir()
        return Store(str(tmp_path / "root"))
    request.getfixturevalue("aws")
    return Store(f"s3://{BUCKET}/{tmp_path.name}")


def build(folder):
    for name, data in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    return {"in": 3, "accepted": 3}


def never(folder):
    raise AssertionError("built again")


def tree(store):
    """Every file below the root: relative path -> bytes."""
    fs, base = store.filesystem()
    return {name.removeprefix(f"{base}/"): fs.cat_file(name) for name in fs.find(base)}


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def put(store, path, data):
    fs, base = store.filesystem()
    if "://" not in store.root:
        fs.makedirs(f"{base}/{path}".rpartition("/")[0], exist_ok=True)
    if data is None:
        fs.rm_file(f"{base}/{path}")
    else:
        fs.pipe_file(f"{base}/{path}", data)


def a_lease(**changes):
    fields = lease.Lease.mine().model_dump() | changes
    return json.dumps(fields).encode()


def test_an_artifact_is_built_once_and_reused_without_a_call(store):
    first = store.artifact("step", 1, config={"x": 1}, build=build)
    again = store.artifact("step", 1, config={"x": 1}, build=never)
    name = fingerprint("step", 1, config={"x": 1})
    assert first.uri == f"{store.root}/step/{name}"
    assert (first.reused, again.reused) == (False, True)
    assert again.counts == first.counts == {"in": 3, "accepted": 3}
    assert again == store.find("step", name) == open_artifact(first.uri)
    assert pickle.loads(pickle.dumps(store)) == store
    manifest = store.manifest(first)
    assert {f"step/{name}/manifest.json"} | {
        f"step/{name}/attempts/{manifest.attempt}/{path}" for path in FILES
    } == set(tree(store))


def test_the_manifest_names_every_file_and_local_gives_the_same_bytes(store, tmp_path, monkeypatch):
    artifact = store.artifact("step", 1, config={}, build=build)
    entries = {entry.path: entry for entry in store.manifest(artifact).files}
    assert {name: entry.sha256 for name, entry in entries.items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in FILES.items()
    }
    assert {name: entry.bytes for name, entry in entries.items()} == {
        name: len(data) for name, data in FILES.items()
    }
    assert contents(store.local(artifact)) == FILES
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "other-cache"))
    assert contents(store.local(artifact)) == FILES


def test_each_ingredient_changes_the_address_and_order_or_root_do_not(store, tmp_path):
    parent = store.artifact("parent", 1, config={}, build=build)
    other = store.artifact("parent", 2, config={}, build=build)
    base = dict(config={"a": 1, "b": [1, 2]}, parents={"p": parent}, inputs={"f": "hash"})
    child = store.artifact("step", 1, **base, build=build)
    variants = [
        ("step", 1, base),
        ("stop", 1, base),
        ("step", 2, base),
        ("step", 1, base | {"config": {"a": 1, "b": [2, 1]}}),
        ("step", 1, base | {"parents": {"p": other}}),
        ("step", 1, base | {"parents": {"q": parent}}),
        ("step", 1, base | {"inputs": {"f": "changed"}}),
    ]
    names = [store.fingerprint(step, version, **rest) for step, version, rest in variants]
    assert names[0] == child.fingerprint
    assert len(set(names)) == len(variants)
    turned = base | {"config": {"b": [1, 2], "a": 1}}
    assert Store(str(tmp_path / "elsewhere")).fingerprint("step", 1, **turned) == names[0]
    manifest = store.manifest(child)
    assert manifest.parents == {"p": f"parent/{parent.fingerprint}"}
    assert (manifest.config, manifest.inputs) == (base["config"], base["inputs"])


def test_a_fingerprint_is_the_same_tomorrow_and_for_a_typed_config():
    assert fingerprint("ingest", 1, config={"a": 1.5}) == "e9272861d336d08e6c971134"
    typed = BalanceConfig(clean_per_unsafe=2)
    assert fingerprint("s", 1, config=typed) == fingerprint("s", 1, config=typed.model_dump())


@pytest.mark.parametrize("value", [float("nan"), {1, 2}, object()])
def test_a_config_without_one_json_form_is_refused(value):
    with pytest.raises(ConfigError, match="cannot be fingerprinted"):
        fingerprint("step", 1, config={"x": value})


@pytest.mark.parametrize("damage", ["gone", "short", "flipped", "extra", "half", "escape"])
def test_a_damaged_artifact_is_named_and_rebuilt_never_used(store, caplog, damage):
    artifact = store.artifact("step", 1, config={}, build=build)
    folder = f"step/{artifact.fingerprint}"
    rows = f"{folder}/attempts/{store.manifest(artifact).attempt}/rows"
    manifest, data = tree(store)[f"{folder}/manifest.json"], FILES["rows/a.bin"]
    path, changed, named = {
        "gone": (f"{rows}/a.bin", None, "rows/a.bin is missing"),
        "short": (f"{rows}/a.bin", data[:-1], "rows/a.bin has 149999 bytes"),
        "flipped": (f"{rows}/a.bin", b"O" + data[1:], "rows/a.bin has sha256"),
        "extra": (f"{rows}/c.bin", b"x", "rows/c.bin is not in the manifest"),
        "half": (f"{folder}/manifest.json", manifest[: len(manifest) // 2], "manifest.json cannot"),
        "escape": (
            f"{folder}/manifest.json",
            manifest.replace(b"rows/a", b"../../a"),
            "outside its attempt: '../../a.bin'",
        ),
    }[damage]
    put(store, path, changed)
    assert store.find("step", artifact.fingerprint) is None
    with pytest.raises(StorageError, match="no sound artifact"):
        open_artifact(artifact.uri)
    caplog.clear()
    again = store.artifact("step", 1, config={}, build=build)
    warning = next(r.getMessage() for r in caplog.records if r.levelno == logging.WARNING)
    assert named in warning
    assert not again.reused
    assert contents(store.local(again)) == FILES
    assert store.artifact("step", 1, config={}, build=never).reused


def test_a_big_artifact_is_hashed_at_its_first_local_and_rebuilt_after(store, monkeypatch, caplog):
    monkeypatch.setattr(integrity, "SMALL_BYTES", 10)
    artifact = store.artifact("step", 1, config={}, build=build)
    attempt = store.manifest(artifact).attempt
    put(store, f"step/{artifact.fingerprint}/attempts/{attempt}/rows/b.bin", b"twO")
    assert store.artifact("step", 1, config={}, build=never).reused  # names and sizes are right
    monkeypatch.setenv("PSAVLM_CACHE", os.environ["PSAVLM_CACHE"] + "-of-another-machine")
    monkeypatch.setattr(integrity, "_hashed", set())  # as in another process
    with pytest.raises(StorageError, match=r"rows/b\.bin has sha256 .* run its step again"):
        store.local(artifact)
    again = store.artifact("step", 1, config={}, build=build)
    assert not again.reused
    assert contents(store.local(again)) == FILES
    assert store.verify(again).attempt != attempt


def test_a_remote_artifact_is_fetched_once_and_a_damaged_copy_again(aws, tmp_path, monkeypatch):
    store = Store(f"s3://{BUCKET}/{tmp_path.name}")
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "here"))
    artifact = store.artifact("step", 1, config={}, build=build)
    monkeypatch.setenv("PSAVLM_CACHE", str(tmp_path / "cache"))
    copy = store.local(artifact)
    before = (copy / "empty").stat().st_mtime_ns
    assert (store.local(artifact) / "empty").stat().st_mtime_ns == before
    (copy / "rows/b.bin").write_bytes(b"long")
    assert contents(store.local(artifact)) == FILES
    assert list((tmp_path / "cache/.incoming").iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError("no"), KeyboardInterrupt()])
def test_a_failing_build_leaves_nothing(store, tmp_path, error):
    def failing(folder):
        build(folder)
        raise error

    with pytest.raises(type(error)):
        store.artifact("step", 1, config={}, build=failing)
    assert tree(store) == {}
    assert list(tmp_path.glob("root/*")) + list(tmp_path.glob("cache/**/[!.]*.bin")) == []
    assert not store.artifact("step", 1, config={}, build=build).reused


def test_an_attempt_without_a_manifest_is_never_used(store):
    name = fingerprint("step", 1, config={})
    put(store, f"step/{name}/attempts/{'0' * 32}/rows/a.bin", b"half")
    assert store.find("step", name) is None
    artifact = store.artifact("step", 1, config={}, build=build)
    assert contents(store.local(artifact)) == FILES


def test_a_builder_killed_anywhere_leaves_nothing_that_counts(store, tmp_path):
    moments = {
        "after put lease.json": False, "in build": False, "before put manifest.json": False,
        "after put manifest.json": True, "after remove lease.json": True,
    }  # fmt: skip
    if "://" in store.root:
        moments["amid upload files"] = False
    else:
        moments |= {"before put lease.json": False, "before remove lease.json": True}

    def whole(folder):
        (folder / "one").write_bytes(b"half")
        (folder / "two").write_bytes(b"two")
        return {}

    subprocess.run([sys.executable, "-c", KILLED, store.root, *moments], check=True)
    for moment, committed in moments.items():
        begun = time.monotonic()
        artifact = store.artifact("step", 1, config={"moment": moment}, build=whole)
        assert time.monotonic() - begun < 20, moment  # no wait for the lease of 60 s
        assert artifact.reused == committed, moment
        assert contents(store.local(artifact)) == {"one": b"half", "two": b"two"}, moment
        names = [name for name in tree(store) if artifact.fingerprint in name]
        attempts = {name.split("/")[3] for name in names if "/attempts/" in name}
        assert attempts == {store.manifest(artifact).attempt}, moment
    copies = list(tmp_path.glob("cache/step/*/*"))  # one each: those of the killed are gone
    assert len(copies) == (len(moments) if "://" in store.root else 0)


def test_threads_that_want_the_same_artifact_build_it_once(store):
    calls, artifacts = [], []
    name = fingerprint("step", 1, config={})
    put(store, f"step/{name}/lease.json", a_lease(started="before the last boot"))

    def slow(folder):
        calls.append(folder)
        time.sleep(0.2)
        return build(folder)

    def ask():
        artifacts.append(store.artifact("step", 1, config={}, build=slow))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert sorted(artifact.reused for artifact in artifacts) == [False, True, True]
    assert [path for path in tree(store) if "lease" in path] == []


def test_processes_that_want_the_same_artifact_build_it_once(store, tmp_path):
    log = tmp_path / "log"
    subprocess.run([sys.executable, "-c", RIVALS, store.root, str(log)], check=True)
    assert log.read_text() == "built\n"


def test_a_put_that_must_be_the_first_loses_to_another_and_meets_itself(store):
    files = Files.at(store.root)
    assert files.put("a/b", b"mine", fresh=True)
    assert files.put("a/b", b"mine", fresh=True)  # repeated after a lost answer
    assert not files.put("a/b", b"yours", fresh=True)
    assert tree(store) == {"a/b": b"mine"}
    assert files.put("a/b", b"yours", fresh=False)
    assert tree(store) == {"a/b": b"yours"}


def test_a_lease_of_another_host_is_waited_for_until_it_expires(store, caplog, monkeypatch):
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(lease, "BEAT_S", 0.1)
    name = fingerprint("step", 1, config={})
    expires = time.time() + 1.2
    put(store, f"step/{name}/lease.json", a_lease(host="elsewhere", pid=7, expires=expires))
    assert not store.artifact("step", 1, config={}, build=build).reused
    assert expires < time.time() < expires + 20
    assert sum("waiting for pid 7 on elsewhere" in r.getMessage() for r in caplog.records) == 1
    assert [path for path in tree(store) if "lease" in path] == []


def test_a_chain_of_dead_holders_is_taken_over_at_once_and_their_attempts_go(store):
    name = fingerprint("step", 1, config={})
    first, second = "1" * 32, "2" * 32
    put(store, f"step/{name}/lease.json", a_lease(owner=first, started="long ago"))
    put(store, f"step/{name}/lease-{first}.json", a_lease(owner=second, started="long ago"))
    put(store, f"step/{name}/attempts/{first}/a", b"half")
    put(store, f"step/{name}/attempts/{second}/a", b"half")
    artifact = store.artifact("step", 1, config={}, build=build)
    assert not [path for path in tree(store) if first in path or second in path]
    assert not artifact.reused


def test_the_lease_is_renewed_while_the_build_runs(store, monkeypatch):
    monkeypatch.setattr(lease, "BEAT_S", 0.05)
    name, seen = fingerprint("step", 1, config={}), []

    def watched(folder):
        for _ in range(2):
            time.sleep(0.3)
            held = json.loads(tree(store)[f"step/{name}/lease.json"])
            assert held["pid"] == os.getpid()
            seen.append(held["expires"])
        return {}

    store.artifact("step", 1, config={}, build=watched)
    assert seen[0] < seen[1]


def test_who_loses_the_commit_uses_the_winner_and_removes_its_own(store):
    def overtaken(folder):
        put(store, f"step/{fingerprint('step', 1, config={})}/lease.json", None)
        winners.append(store.artifact("step", 1, config={}, build=build))
        (folder / "late").write_bytes(b"late")
        return {}

    winners = []
    artifact = store.artifact("step", 1, config={}, build=overtaken)
    assert artifact.reused
    assert artifact.counts == winners[0].counts
    assert not [path for path in tree(store) if path.endswith("late")]
    assert contents(store.local(artifact)) == FILES


def test_a_run_folder_is_dropped_and_a_step_cannot_be_called_runs(store):
    name = fingerprint("stage1", 1, config={})
    assert store.run_folder("stage1", name) == f"{store.root}/runs/stage1-{name}"
    put(store, f"runs/stage1-{name}/checkpoint/x", b"x")
    store.drop_run("stage1", name)
    store.drop_run("stage1", name)
    assert tree(store) == {}
    for step in ("runs", "../up", "A", ""):
        with pytest.raises(ConfigError, match="cannot be a folder"):
            store.fingerprint(step, 1, config={})
    with pytest.raises(ConfigError, match="no fingerprint"):
        store.find("step", "../../etc")


def test_a_missing_artifact_is_told_with_the_remedy(store):
    missing = f"{store.root}/step/{'0' * 24}"
    with pytest.raises(StorageError, match="run its step again"):
        open_artifact(missing)
    with pytest.raises(ConfigError, match="root/step/fingerprint"):
        open_artifact("nowhere")


def test_a_check_of_a_usable_root_leaves_nothing(store, tmp_path, caplog):
    store.check()
    Store(str(tmp_path / "new" / "deep")).check()
    assert tree(store) == {}
    assert not (tmp_path / "new").exists()
    assert "ignores" not in caplog.text


@pytest.mark.parametrize("below", ["file/root", "file", "made/" + "n" * 300, "/proc/root"])
def test_a_check_of_a_useless_folder_fails_and_leaves_nothing(tmp_path, below):
    (tmp_path / "file").write_bytes(b"a file")
    with pytest.raises(StorageError, match="give another root") as told:
        Store(str(tmp_path / below) if below != "/proc/root" else "/proc/no/root").check()
    assert told.value.exit_code == 2
    assert contents(tmp_path) == {"file": b"a file"}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("refused", "does not answer"),
        ("secret", "check AWS_ENDPOINT_URL"),
        ("malformed", "Invalid endpoint"),
        ("bucket", "create the bucket"),
        ("credentials", "refuses these credentials"),
        ("none", "set AWS_ACCESS_KEY_ID"),
    ],
)
def test_a_check_of_a_useless_bucket_fails_soon_and_keeps_secrets(aws, monkeypatch, case, says):
    bucket = BUCKET
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if case == "refused":
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    elif case == "secret":
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:{port}")
    elif case == "malformed":
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"user:{SECRET}@127.0.0.1:{port}")
    elif case == "bucket":
        bucket = "no-such-bucket"
    elif case == "none":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    else:
        ask_for_keys(aws, after=b"0")
    begun = time.monotonic()
    try:
        with pytest.raises(StorageError, match=says) as told:
            Store(f"s3://{bucket}/p").check()
    finally:
        ask_for_keys(aws, after=b"inf")
    assert time.monotonic() - begun < 8
    assert told.value.exit_code == 2
    assert SECRET not in str(told.value)
    assert told.value.__suppress_context__


def ask_for_keys(endpoint, *, after):
    """Make the server check credentials after so many requests."""
    headers = {"Content-Type": "text/plain"}
    request = urllib.request.Request(f"{endpoint}/moto-api/reset-auth", after, headers)
    urllib.request.urlopen(request).close()


def test_a_check_warns_of_a_server_that_ignores_if_none_match(aws, monkeypatch, caplog):
    app = DomainDispatcherApplication(create_backend_app)

    def deaf(environ, start):
        environ.pop("HTTP_IF_NONE_MATCH", None)
        return app(environ, start)

    server = make_server("127.0.0.1", 0, deaf, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_port}")
    try:
        told = Store(f"s3://{BUCKET}/deaf").check()
        assert root_folder(f"s3://{BUCKET}/deaf").state == "warn"
    finally:
        server.shutdown()
        thread.join()
    # Whoever asked tells it, once.
    assert "ignores If-None-Match" in told and caplog.text == ""


@pytest.mark.parametrize("root", ["", "s3://", "gs://bucket", "a\0b", f"s3://key:{SECRET}@bucket"])
def test_a_root_of_another_kind_or_with_a_secret_is_refused(root):
    with pytest.raises(ConfigError) as told:
        Store(root)
    assert SECRET not in str(told.value)


def test_a_relative_root_is_resolved_once_and_needs_no_s3_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Store("here/").root == str(tmp_path / "here")
    code = "import sys; from infra.store import Store; Store('x').find('s', '0' * 24); "
    code += "print([m for m in ('s3fs', 'botocore', 'ray', 'torch') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
