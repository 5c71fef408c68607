"""Generations, fitness of the server, and whether a stream may be resumed."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from index_store import (
    LAYOUT,
    AccessDenied,
    Checkpoint,
    Column,
    GenerationInfo,
    GenerationMismatch,
    IndexStore,
    InvalidAddress,
    LayoutMismatch,
    Server,
    StoreUnavailable,
    Stream,
    StreamChanged,
    UnknownGeneration,
    UnsuitableServer,
    check_stream,
    connect,
    connection,
)
from index_store.keys import ShardKeys
from tests.servers import redis_server

STORED = Checkpoint(next_offset=7, cluster_id="c", topic_id="t", partitions=4, timestamp_ms=1_000)
STREAM = Stream(cluster_id="c", topic_id="t", partitions=4, first=3, end=9, delete_retention_ms=1_000)


def test_the_pointer_says_which_generation_answers(server: Server, info: GenerationInfo) -> None:
    """Two generations live side by side; one of them is active, once one was activated."""
    store = IndexStore(server, "shop")
    assert store.active() is None
    store.activate("g1")
    second = replace(info, name="g2", metric_version="m2", shards=3)
    store.create_generation(second)
    assert store.active() == info
    store.activate("g2")
    assert store.active() == second
    assert store.generations() == [info, second]


def test_a_generation_is_created_once(server: Server, info: GenerationInfo) -> None:
    """Creating it again as it is does nothing; otherwise it is refused; an unknown one is named."""
    store = IndexStore(server, "shop")
    store.create_generation(info)
    with pytest.raises(GenerationMismatch, match="new name"):
        store.create_generation(replace(info, artefact_sha256="1" * 64))
    with pytest.raises(UnknownGeneration, match="nope"):
        store.activate("nope")
    with pytest.raises(ValueError, match="shop"):
        store.create_generation(replace(info, index="other"))


def test_an_artefact_is_bound_to_its_generation(info: GenerationInfo) -> None:
    """Another artefact than the one a generation was made with is refused."""
    info.require_artefact(info.artefact_sha256)
    with pytest.raises(GenerationMismatch, match="file:///metric"):
        info.require_artefact("1" * 64)


@pytest.mark.parametrize(
    "wrong",
    [{"name": "a:b"}, {"index": ""}, {"shards": 0}, {"columns": ()}, {"block_rows": 1 << 30}],
)
def test_senseless_metadata_are_refused(info: GenerationInfo, wrong: dict[str, Any]) -> None:
    """Names that would break keys, and sizes that cannot be, never reach the store."""
    with pytest.raises(ValueError, match=r"\w"):
        replace(info, **wrong)


def test_columns_are_numbers() -> None:
    """A column is little-endian whatever the machine that made it says."""
    assert Column("a", ">f4", 2).dtype == "<f4"
    assert Column("a", "i8", 2).row_bytes == 16
    for dtype, width in [("O", 1), ("f4", 0)]:
        with pytest.raises(ValueError, match="numbers"):
            Column("a", dtype, width)


def test_another_layout_is_refused(server: Server, info: GenerationInfo) -> None:
    """Keys of another layout version are never read or written."""
    server.ask("SET", "{shop}:layout", LAYOUT + 1)
    with pytest.raises(LayoutMismatch, match="another name"):
        IndexStore(server, "shop")


def test_keys_of_a_shard_share_a_slot(server: Server) -> None:
    """Everything that one batch touches, in whichever generation, hashes to one slot."""
    keys = ShardKeys("shop", 3, "g1")
    names = [keys.state, keys.ids, keys.log, keys.leases, keys.sources, keys.mark, keys.block("vectors", 9)]
    names.append(ShardKeys("shop", 3, "g2").state)
    assert len(set(names)) == 8
    assert {name[: name.index("}") + 1] for name in names} == {"{shop:3}"}


def test_a_server_that_drops_keys_is_refused() -> None:
    """Any eviction policy but noeviction, and the message says which setting to change."""
    with redis_server("--maxmemory-policy", "allkeys-lru") as url, pytest.raises(UnsuitableServer, match="noeviction"):
        connect(url)


def test_an_absent_server_is_unavailable() -> None:
    """Nobody there is an error of this room."""
    with pytest.raises(StoreUnavailable, match="is the server up"):
        connect("unix:///nowhere/redis.sock", writer=True)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"first": 7},
        {"end": 7, "delete_retention_ms": 1},  # nothing came since, and so no deletion either
        {"delete_retention_ms": None},
    ],
)
def test_the_same_stream_is_resumed(change: dict[str, Any]) -> None:
    """A state that stands between beginning and end, and has missed no deletion, goes on; so does an empty one."""
    check_stream(STORED, replace(STREAM, **change), now_ms=2_000)
    check_stream(None, replace(STREAM, **change), now_ms=2_000)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"cluster_id": "x"}, "cluster"),
        ({"topic_id": "x"}, "topic id"),
        ({"partitions": 5}, "partition count"),
        ({"end": 6}, "ends at 6"),
        ({"first": 8}, "begins at 8"),
        ({"delete_retention_ms": 999}, "delete.retention.ms"),
    ],
)
def test_another_stream_is_refused(change: dict[str, Any], named: str) -> None:
    """Another cluster, topic or partition count, lost records, or an old state, is refused with a remedy."""
    with pytest.raises(StreamChanged, match=f"{named}.*hopstream index drop"):
        check_stream(STORED, replace(STREAM, **change), now_ms=2_000)


def test_records_that_went_before_they_were_read_may_not_matter() -> None:
    """Where gaps are allowed, a partition that begins behind the position is no reason to refuse; others still are."""
    check_stream(STORED, replace(STREAM, first=8), now_ms=2_000, gaps_allowed=True)
    with pytest.raises(StreamChanged, match="ends at 6"):
        check_stream(STORED, replace(STREAM, end=6), now_ms=2_000, gaps_allowed=True)


def test_a_server_that_comes_late_is_waited_for(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With patience, nobody there is tried again; once a server is there, it is connected to."""
    late = tmp_path / "redis.sock"
    monkeypatch.setattr(connection.time, "sleep", lambda _: late.symlink_to(url.removeprefix("unix://")))
    with connect(f"unix://{late}", patience_s=30) as server:
        assert server.ask("PING")
    assert late.is_symlink()


@pytest.mark.parametrize(
    "option", ["foo=1", "socket_timeout=soon", "protocol=3", "decode_responses=1", "password=secret&retry=1"]
)
def test_options_that_no_connection_has_are_named(url: str, option: str) -> None:
    """A URL's query is checked before anything is sent, by what this room relies on too; no password is told."""
    with pytest.raises(InvalidAddress, match="redis.url.*" + option.rpartition("&")[2].partition("=")[0]) as raised:
        connect(f"{url}?{option}")
    assert "secret" not in str(raised.value)


def test_wrong_credentials_are_named_at_once(server: Server, url: str) -> None:
    """A wrong password and a missing right are no absence: no waiting, the setting is named, no secret is told."""
    server.ask("ACL", "SETUSER", "clerk", "on", ">right-secret", "~*", "+@all", "-info")
    for user, refusal in (("clerk:wrong-secret", "redis.url"), ("clerk:right-secret", "ACL forbids.*info")):
        with pytest.raises(AccessDenied, match=refusal) as raised:
            connect(url.replace("://", f"://{user}@"), patience_s=3600)
        assert "secret" not in str(raised.value)
