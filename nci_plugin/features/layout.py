"""How the rows of a split are cut into shards."""

from __future__ import annotations

from dataclasses import dataclass

SHARD_BYTES = 64 * 2**20
SHARDS = 32
"""A shard holds at most so many bytes and a split has about so many shards, or more, so that processes can share it."""


@dataclass(frozen=True)
class Layout:
    """A split of ``rows`` as shards of whole batches, the same whatever the number of processes.

    ``row_bytes`` are those of the features and logits of a row.
    """

    rows: int
    batch_size: int
    row_bytes: int

    @property
    def rows_per_shard(self) -> int:
        size = self.batch_size
        return size * max(1, min(SHARD_BYTES // (self.row_bytes * size), -(-self.rows // (size * SHARDS))))

    @property
    def num_shards(self) -> int:
        return -(-self.rows // self.rows_per_shard)

    def rows_of(self, number: int) -> int:
        """Rows of shard ``number``: the last one may have fewer."""
        return min(self.rows_per_shard, self.rows - number * self.rows_per_shard)

    def starts(self, number: int) -> range:
        """The first rows of the batches of shard ``number``."""
        first = number * self.rows_per_shard
        return range(first, first + self.rows_of(number), self.batch_size)
