"""The process that speaks to a Ray cluster for an ingest, chunk after chunk, until stdin ends.

It is one of its own because Ray ends it, without a word or an exception, when the node that it is
connected to goes away: whoever started it lives on and can tell.

Comes in on stdin: Arrow's stream of ASKED, in chunks that end with a batch of no rows. The first
has the settings and then the library's ids, the others have blocks. Goes out on stdout: a line with
the cluster's CPUs, then Arrow's stream of ANSWERED, an answer for each row in order. What goes
wrong is written into a file that both share.
"""

import json
import logging
import os
import signal
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from infra import ray_cluster
from infra.ray_errors import retold
from schemas.config import IngestConfig
from schemas.errors import PsavlmError, ServerError
from tasks.ingest.worker import ANSWERED, decoded_block

if TYPE_CHECKING:
    from ray import ObjectRef

# How often a block is given to another worker when one has died; without it Ray never gives up.
RETRIES = 3
# Bytes of blocks and answers that Ray may hold in front of us, and of an answer's block.
MOST_BYTES, BYTES_PER_BLOCK = 2_000_000_000, 16_000_000


def main() -> None:
    """Join the cluster and answer.

    The arguments are the number of the file for the last words, and the cluster's address; an empty
    one is that of `psavlm up`.
    """
    words, address = int(sys.argv[1]), sys.argv[2]
    # Ctrl-C goes to the parent as well, which ends this process in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    # What Ray prints is no answer.
    os.dup2(2, 1)
    try:
        ray_cluster.join(address, cpus=1)
        with retold(gone):
            _answer(answers)
    except PsavlmError as error:
        told = {"error": type(error).__name__, "detail": str(error)}
        os.write(words, json.dumps(told).encode())
        sys.exit(error.exit_code)
    except BrokenPipeError:
        os._exit(1)  # nobody is there to be told
    ray_cluster.leave()


def gone(why: str) -> ServerError:
    """What to do where the cluster is not there any more."""
    return ServerError(
        f"the Ray cluster went away in mid ingest ({why}): bring it back, or leave out the "
        "cluster, and run the same command: finished shards are kept"
    )


def _answer(out: Any) -> None:
    import ray

    out.write(b"%d\n" % int(ray.cluster_resources().get("CPU", 0)))
    out.flush()
    with pa.ipc.open_stream(sys.stdin.buffer) as asked:
        if not (first := list(_chunk(asked))):  # the cluster is not larger than the parent
            return
        told = json.loads(first[0]["path"][0].as_py())
        told["config"] = IngestConfig.model_validate(told["config"])
        ids = [np.frombuffer(batch["data"][0].as_py(), "S32") for batch in first]
        told["library"] = ray.put(np.concatenate(ids))
        with pa.ipc.new_stream(out, ANSWERED) as answers:
            while blocks := [ray.put(pa.Table.from_batches([one])) for one in _chunk(asked)]:
                for table in _decoded(blocks, told):
                    answers.write_table(table)
                    out.flush()


def _chunk(asked: pa.ipc.RecordBatchStreamReader) -> Iterator[pa.RecordBatch]:
    """The batches up to an empty one."""
    for batch in asked:
        if not batch.num_rows:
            return
        yield batch


def _decoded(blocks: "list[ObjectRef[pa.Table]]", told: dict[str, Any]) -> Iterator[pa.Table]:
    """ANSWERED, in the order in which it was asked."""
    import ray.data
    from ray.data import ExecutionResources

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    asked = ray.data.from_arrow_refs(blocks)
    asked.context.target_max_block_size = BYTES_PER_BLOCK
    asked.context.execution_options.preserve_order = True
    asked.context.execution_options.resource_limits = ExecutionResources.for_limits(
        object_store_memory=MOST_BYTES
    )
    asked.context.enable_progress_bars = asked.context.print_on_execution_start = False
    answers = asked.map_batches(
        decoded_block,
        batch_format="pyarrow",
        fn_kwargs=told,
        ray_remote_args_fn=lambda: {"max_retries": RETRIES},
    )
    yield from answers.iter_batches(batch_size=None, batch_format="pyarrow")
