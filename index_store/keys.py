"""Names of keys. What must change together shares a hash tag, so one slot of a Redis Cluster."""

import re
from dataclasses import dataclass

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")


def check_name(what: str, name: str) -> str:
    """Return `name` if it can be part of a key and of a topic name, else raise ValueError."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"{what} {name!r}: use letters, digits, '.', '_' and '-', at most 200 of them")
    return name


@dataclass(frozen=True, slots=True)
class IndexKeys:
    """Keys of an index as a whole."""

    index: str

    @property
    def layout(self) -> str:
        """String: the layout version."""
        return f"{{{self.index}}}:layout"

    @property
    def generations(self) -> str:
        """Hash: name -> metadata."""
        return f"{{{self.index}}}:generations"

    @property
    def active(self) -> str:
        """String: the name of the generation that answers."""
        return f"{{{self.index}}}:active"

    def artefact(self, digest: str) -> str:
        """Hash: a manifest, and the chunks of the files that it names."""
        return f"{{{self.index}}}:artefact:{digest}"

    def upload(self, digest: str, upload: str) -> str:
        """Hash: an artefact that is being written, before it gets its name."""
        return f"{self.artefact(digest)}:{upload}"

    @property
    def positions(self) -> str:
        """Hash: stream and partition -> checkpoint that every history bucket has reached."""
        return f"{{{self.index}}}:history-positions"

    def offsets(self, bucket: int) -> str:
        """Hash: stream and partition -> last offset applied to this bucket."""
        return f"{{{self.index}:h{bucket}}}:offsets"

    def history(self, bucket: int, user: str) -> str:
        """String: a user's history."""
        return f"{{{self.index}:h{bucket}}}:user:{user}"


@dataclass(frozen=True, slots=True)
class ShardKeys:
    """Keys of one shard, in one generation where `generation` is given."""

    index: str
    shard: int
    generation: str = ""

    @property
    def sources(self) -> str:
        """Hash: id -> source record, outside generations."""
        return f"{{{self.index}:{self.shard}}}:sources"

    @property
    def mark(self) -> str:
        """String: the checkpoint of the source records."""
        return f"{{{self.index}:{self.shard}}}:sources-mark"

    @property
    def state(self) -> str:
        """Hash: epoch, seq, chain, rows, checkpoint and what the generation was made with."""
        return self._of_generation("state")

    @property
    def ids(self) -> str:
        """Hash: id -> row."""
        return self._of_generation("ids")

    @property
    def log(self) -> str:
        """Stream of entries `epoch-seq`."""
        return self._of_generation("log")

    @property
    def leases(self) -> str:
        """Hash: follower -> (seq, expiry)."""
        return self._of_generation("leases")

    def block(self, column: str, number: int) -> str:
        """String: `block_rows` rows of a column."""
        return self._of_generation(f"block:{column}:{number}")

    def _of_generation(self, name: str) -> str:
        return f"{{{self.index}:{self.shard}}}:{self.generation}:{name}"
