"""Which artifacts name images and features of the libraries: for `psavlm verify` and `gc`."""

from infra.library import INDEX
from infra.references import Reference
from tasks import encode, images

REFERENCES = (
    Reference("ingest", 2, "images", images.STEP, images.VERSION),
    Reference(
        "encode", 2, INDEX, encode.SHARDS, encode.SHARD_VERSION, stamps={"encoder": encode.ENCODER}
    ),
)
