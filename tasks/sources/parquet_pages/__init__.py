"""What a Parquet file's pages unpack to: read from their headers, before anything is unpacked.

A file of some hundred bytes can hold gigabytes: pages that compress well, one large value that a
dictionary repeats, lengths that are all alike. The footer may lie about all of it; the pages'
headers cannot, for pyarrow itself goes by them.
"""

from tasks.sources.parquet_pages.limits import most_rows, open_footer

__all__ = ["most_rows", "open_footer"]
