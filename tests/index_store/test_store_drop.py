"""What a drop deletes and what it leaves: a whole index, or one generation of it."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from index_store import (
    IN_STORE,
    Artefacts,
    ArtefactUnreadable,
    Batch,
    Checkpoint,
    Follower,
    GenerationActive,
    GenerationInfo,
    HistoryEvent,
    HistoryWriter,
    IndexStore,
    Server,
    ShardWriter,
    StoreFull,
    StoreUnavailable,
    UnknownGeneration,
)


def test_an_index_goes_as_a_whole_and_alone(
    server: Server, writing: Server, info: GenerationInfo, writer: ShardWriter, one_row: Callable[..., Batch]
) -> None:
    """Rows, log, sources and histories of the index go; an index whose name begins like its name stays."""
    writer.apply(one_row(1, next_offset=5))
    histories = HistoryWriter(writing, "shop", 0)
    histories.take()
    histories.append([HistoryEvent(0, "u", "buy", "i", 1)], Checkpoint(1, "c", "t", 1, 0))
    other = replace(info, index="shop2")
    IndexStore(server, "shop2").create_generation(other)
    kept = [key for key in server.ask("KEYS", "*") if key.startswith(b"{shop2")]
    assert IndexStore(server, "shop").drop() > 5
    assert sorted(server.ask("KEYS", "*")) == sorted(kept)


@pytest.fixture
def stored(server: Server, info: GenerationInfo) -> GenerationInfo:
    """A generation of two shards whose artefact lies in the store, beside the active one without items."""
    digest = Artefacts(server, "shop").put({"metric": b"numbers"})
    stored = replace(info, name="old", shards=2, artefact_uri=f"{IN_STORE}:{digest}")
    store = IndexStore(server, "shop")
    store.create_generation(stored)
    store.activate(info.name)
    return stored


def fill(writing: Server, info: GenerationInfo, one_row: Callable[..., Batch], rows: int = 6) -> ShardWriter:
    """Write rows, more than a block of them, to the generation's first shard; followed meanwhile."""
    writer = ShardWriter(writing, info, 0)
    writer.take()
    Follower(writing, info, 0).load()
    for seq in range(1, rows + 1):
        writer.apply(one_row(seq, next_offset=seq))
    return writer


def test_a_generation_goes_with_all_that_is_its_own(
    server: Server, writing: Server, info: GenerationInfo, stored: GenerationInfo, one_row: Callable[..., Batch]
) -> None:
    """Its keys, metadata and artefact go, and nothing else: source records and the active generation stay."""
    before = set(server.ask("KEYS", "*"))
    fill(writing, stored, one_row)
    own = {key for key in server.ask("KEYS", "*") if b":old:" in key or b":artefact:" in key}
    assert len(own) == 2 + 1 + 1 + 1 + 4 + 1  # states, ids, log, leases, blocks, artefact
    store = IndexStore(server, "shop")
    store.drop_generation("old")
    keys = stored.keys(0)
    assert set(server.ask("KEYS", "*")) == (before | {keys.sources.encode(), keys.mark.encode()}) - own
    assert server.ask("HLEN", keys.sources) == 6
    assert store.generations() == [info] == [store.active()]
    with pytest.raises(UnknownGeneration):
        store.drop_generation("old")


def test_the_generation_that_answers_is_not_dropped(server: Server, stored: GenerationInfo) -> None:
    """It is refused with the remedy, and whole; once another one answers it can go."""
    store = IndexStore(server, "shop")
    store.activate("old")
    before = sorted(server.ask("KEYS", "*"))
    with pytest.raises(GenerationActive, match="index activate"):
        store.drop_generation("old")
    assert sorted(server.ask("KEYS", "*")) == before
    store.activate("g1")
    store.drop_generation("old")


def test_an_artefact_stays_while_a_generation_has_it(server: Server, stored: GenerationInfo) -> None:
    """Of two generations of one artefact the first leaves it, the last takes it along."""
    store, digest = IndexStore(server, "shop"), stored.stored_artefact
    assert digest
    store.create_generation(replace(stored, name="older", block_rows=8))
    store.drop_generation("old")
    assert Artefacts(server, "shop").get(digest) == {"metric": b"numbers"}
    store.drop_generation("older")
    with pytest.raises(ArtefactUnreadable, match="no artefact"):
        Artefacts(server, "shop").get(digest)


def test_whoever_uses_a_dropped_generation_finds_it_missing(
    server: Server, writing: Server, stored: GenerationInfo, one_row: Callable[..., Batch]
) -> None:
    """Its writer and its follower are refused, whatever they do next, and bring no key of it back."""
    writer, follower = fill(writing, stored, one_row), Follower(server, stored, 0)
    follower.load()
    IndexStore(server, "shop").drop_generation("old")
    for use in (lambda: writer.apply(one_row(7)), writer.take, follower.load):
        with pytest.raises(UnknownGeneration, match="has no shard"):
            use()
    follower.close()
    assert not server.ask("KEYS", "*:old:*")


def test_a_drop_that_was_cut_short_is_finished_by_another(
    server: Server, writing: Server, stored: GenerationInfo, one_row: Callable[..., Batch]
) -> None:
    """Whichever command was the last: what is left is whole or cannot become active, and goes the next time."""
    store = IndexStore(server, "shop")
    for survived in count():
        store.create_generation(stored)
        fill(writing, stored, one_row)
        if dropped(store, "old", commands=survived):
            break
        try:
            store.activate("old")
        except UnknownGeneration:
            assert not server.ask("EXISTS", stored.keys(0).ids)
        else:
            with closing(Follower(server, stored, 0)) as follower:
                assert len(follower.load().ids) == 6
            store.activate("g1")
        store.drop_generation("old")
        assert not server.ask("KEYS", "*:old:*")
    assert survived > 5


def dropped(store: IndexStore, name: str, *, commands: int) -> bool:
    """Whether a generation can be dropped by a process that dies after so many commands."""
    left = commands

    def mortal(real: Callable[..., Any]) -> Callable[..., Any]:
        def send(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise StoreUnavailable("the process is gone")
            return real(*arguments, **options)

        return send

    with pytest.MonkeyPatch.context() as patch:
        for way in ("ask", "ask_all", "call"):
            patch.setattr(store.server, way, mortal(getattr(store.server, way)))
        try:
            store.drop_generation(name)
        except StoreUnavailable:
            return False
    return True


def test_a_generation_that_is_written_to_goes_as_a_whole(
    server: Server,
    writing: Server,
    stored: GenerationInfo,
    one_row: Callable[..., Batch],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Rows that come between the look at their number and the deletion leave no block behind."""
    writer, call = fill(writing, stored, one_row), server.call
    rows = iter(range(7, 10))

    def written(function: str, *arguments: Any) -> Any:
        for seq in rows:
            writer.apply(one_row(seq))
        return call(function, *arguments)

    monkeypatch.setattr(server, "call", written)
    IndexStore(server, "shop").drop_generation("old")
    assert not server.ask("KEYS", "*:old:*")


def test_a_full_store_lets_a_generation_go(
    writing: Server, server: Server, stored: GenerationInfo, one_row: Callable[..., Batch]
) -> None:
    """Dropping one is what the message about a full store advises."""
    writer = fill(writing, stored, one_row)
    server.ask("CONFIG", "SET", "maxmemory", "1mb")
    try:
        with pytest.raises(StoreFull, match="index drop --generation"):
            writer.apply(one_row(7))
        IndexStore(server, "shop").drop_generation("old")
    finally:
        server.ask("CONFIG", "SET", "maxmemory", "0")
