"""A follower continues, or says that it cannot."""

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest

from index_store import (
    Batch,
    Change,
    Follower,
    GenerationInfo,
    GenerationMismatch,
    IndexStore,
    LogGap,
    Server,
    ShardWriter,
    StoreError,
    UnknownGeneration,
    connect,
)

MakeBatch = Callable[..., Batch]


@pytest.fixture
def follower(server: Server, info: GenerationInfo) -> Iterator[Follower]:
    """A follower of the shard, not loaded yet."""
    follower = Follower(server, info, 0)
    yield follower
    follower.close()


def log_length(server: Server, info: GenerationInfo) -> int:
    """Entries in the log."""
    return int(server.ask("XLEN", info.keys(0).log))


@pytest.mark.parametrize("entries", [1, 64])
def test_a_load_while_a_writer_writes_converges(
    server: Server, writer: ShardWriter, info: GenerationInfo, monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    """Bulk reads with writes between them end in one state, after as many rounds of replay as that takes."""
    rows, real = np.arange(64), Server.ask

    def write() -> None:
        """Every row of every column, and every id, says which batch it is from."""
        seq = writer.position.seq + 1
        columns = {c.name: [(rows, np.full((64, c.width), seq, c.dtype))] for c in info.columns}
        writer.apply(Batch(seq, 64, columns, ids_set={f"{row}": (row + seq) % 64 for row in rows.tolist()}))

    def ask_amid_writes(self: Server, *command: bytes | str | int | float) -> Any:
        answer = real(self, *command)
        if command[0] in ("MGET", "HSCAN"):
            for _ in range(3):
                write()
        return answer

    write()
    monkeypatch.setattr("index_store.follower._READ_ENTRIES", entries)
    monkeypatch.setattr("index_store.follower._READ_BYTES", 100)
    monkeypatch.setattr(Server, "ask", ask_amid_writes)
    follower = Follower(server, info, 0)
    snapshot = follower.load()
    follower.close()
    assert snapshot.seq == writer.position.seq > 10
    for array in snapshot.columns.values():
        assert (array == snapshot.seq).all()
    assert snapshot.ids == {f"{row}": (row + snapshot.seq) % 64 for row in rows.tolist()}


def test_poll_wakes_for_a_new_entry(follower: Follower, writer: ShardWriter, one_row: MakeBatch) -> None:
    """A waiting poll returns the change as soon as it is there, long before its time is up."""
    follower.load()
    found: list[Change] = []
    thread = threading.Thread(target=lambda: found.extend(follower.poll(timeout_s=4)))
    thread.start()
    writer.apply(one_row(1))
    thread.join(timeout=3)
    assert not thread.is_alive()
    assert [change.seq for change in found] == [1]
    assert found[0].ids_set == {"item-0": 0}


def test_a_long_log_comes_in_parts_and_in_order(follower: Follower, writer: ShardWriter, one_row: MakeBatch) -> None:
    """More entries than one read returns are all delivered, once each; then there is nothing."""
    follower.load()
    for seq in range(1, 151):
        writer.apply(one_row(seq))
    found = []
    while changes := follower.poll():
        found += [change.seq for change in changes]
    assert found == list(range(1, 151))
    assert follower.poll(timeout_s=0.01) == []


@pytest.mark.parametrize("keep", [0, 1])
def test_a_trimmed_log_is_a_gap(
    server: Server, follower: Follower, writer: ShardWriter, one_row: MakeBatch, keep: int
) -> None:
    """Entries that are gone are noticed whether others are left behind them or none; a new load goes on."""
    follower.load()
    for seq in range(1, 6):
        writer.apply(one_row(seq))
    server.ask("XTRIM", writer.info.keys(0).log, "MAXLEN", keep)
    with pytest.raises(LogGap, match="load"):
        follower.poll()
    with pytest.raises(LogGap, match="load"):
        follower.poll()
    assert follower.load().seq == 5
    writer.apply(one_row(6))
    assert [change.seq for change in follower.poll()] == [6]


@pytest.mark.parametrize("refilled", [0, 2, 3, 4])
def test_a_reset_store_is_noticed(
    server: Server, follower: Follower, writer: ShardWriter, one_row: MakeBatch, refilled: int
) -> None:
    """A store that was emptied and filled with the same batches, fewer, as many or more, is another one."""
    for seq in range(1, 4):
        writer.apply(one_row(seq))
    follower.load()
    server.ask("FLUSHALL")
    with pytest.raises(LogGap):
        follower.poll()
    with pytest.raises(UnknownGeneration):
        follower.load()
    # Emptied and filled again behind the follower's back.
    IndexStore(server, "shop").create_generation(writer.info)
    writer.take()
    follower.load()
    server.ask("FLUSHALL")
    IndexStore(server, "shop").create_generation(writer.info)
    writer.take()
    for seq in range(1, refilled + 1):
        writer.apply(one_row(seq))
    with pytest.raises(LogGap):
        follower.poll()
    assert follower.load().seq == refilled


def test_a_failover_that_lost_the_newest_entries_is_noticed(
    server: Server, follower: Follower, writer: ShardWriter, one_row: MakeBatch
) -> None:
    """Replication is asynchronous: the same numbers come again with other content, and the chain tells."""
    writer.apply(one_row(1))
    saved = {key: server.ask("DUMP", key) for key in server.ask("KEYS", "*")}
    writer.take()
    writer.apply(one_row(2))
    follower.load()
    for key in server.ask("KEYS", "*"):
        server.ask("DEL", key)
    for key, value in saved.items():
        server.ask("RESTORE", key, 0, value)
    writer.take()
    writer.apply(one_row(2, value=7.0))
    writer.apply(one_row(3))
    with pytest.raises(LogGap, match="another"):
        follower.poll()


def test_trimming_spares_leases_up_to_the_larger_cap(
    server: Server, writing: Server, info: GenerationInfo, one_row: MakeBatch
) -> None:
    """Without a lease the smaller cap holds; with one the log grows to the larger cap, which wins."""
    writer = ShardWriter(writing, info, 0, log_bytes=500, leased_bytes=2_000)
    writer.take()
    for seq in range(1, 51):
        writer.apply(one_row(seq))
    without = log_length(server, info)
    follower = Follower(server, info, 0)
    follower.load()
    for seq in range(51, 61):
        writer.apply(one_row(seq))
    assert [change.seq for change in follower.poll()] == list(range(51, 61))
    for seq in range(61, 111):
        writer.apply(one_row(seq))
    with_lease = log_length(server, info)
    with pytest.raises(LogGap):
        follower.poll()
    follower.close()
    writer.apply(one_row(111))
    assert 1 <= without < 10 < with_lease < 30
    assert log_length(server, info) <= without
    assert writer.trim(0, 0) == without
    assert log_length(server, info) == 0


def test_a_lease_ends_with_its_time(server: Server, writing: Server, info: GenerationInfo, one_row: MakeBatch) -> None:
    """A follower that died does not hold the log."""
    writer = ShardWriter(writing, info, 0, log_bytes=0)
    writer.take()
    leases = info.keys(0).leases
    for expiry_ms, entries_left in [(2**42, 1), (1, 0)]:  # in the year 2109, in 1970
        server.ask("HSET", leases, "dead", msgpack.packb([0, expiry_ms]))
        writer.apply(one_row(writer.position.seq + 1))
        assert log_length(server, info) == entries_left
    assert server.ask("HLEN", leases) == 0


def test_a_lease_is_renewed_by_polling(
    server: Server, info: GenerationInfo, writer: ShardWriter, one_row: MakeBatch
) -> None:
    """Every poll after a third of the lease moves the lease to where the follower is."""
    leases = info.keys(0).leases
    follower = Follower(server, info, 0, lease_s=0.0)  # a third of it is always over
    follower.load()
    server.ask("DEL", leases)
    writer.apply(one_row(1))
    assert [change.seq for change in follower.poll()] == [1]
    follower.poll()
    assert msgpack.unpackb(server.ask("HGET", leases, follower.name))[0] == 1
    follower.close()
    assert server.ask("HLEN", leases) == 0


def test_another_generation_s_shard_is_refused(server: Server, info: GenerationInfo) -> None:
    """A mirror never pairs with a generation that was made otherwise."""
    follower = Follower(server, replace(info, metric_version="m2"), 0)
    with pytest.raises(GenerationMismatch):
        follower.load()
    with pytest.raises(StoreError, match="load"):
        follower.poll()
    follower.close()


def test_blocks_are_read_in_several_rounds(
    server: Server, writing: Server, info: GenerationInfo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A load whose blocks exceed one round trip is complete, and rows never written are zeros."""
    monkeypatch.setattr("index_store.follower._READ_BYTES", 100)
    writer = ShardWriter(writing, info, 0)
    writer.take()
    rows = np.array([0, 1, 2, 3, 4, 9, 8, 21])
    values = np.arange(24, dtype="<f4").reshape(8, 3)
    writer.apply(Batch(1, 30, {"vectors": [(rows, values)]}))
    with connect(server.url) as other:
        follower = Follower(other, info, 0)
        columns = follower.load().columns
        follower.close()
    expected = np.zeros((30, 3), "<f4")
    expected[rows] = values
    np.testing.assert_array_equal(columns["vectors"], expected)
    assert not columns["neighbors"].any()
    assert columns["neighbors"].shape == (30, 2)
