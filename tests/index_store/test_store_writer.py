"""Fencing, unknown outcomes and refusals of the write path."""

import socket
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from index_store import (
    Batch,
    BatchTooLarge,
    Checkpoint,
    GenerationInfo,
    GenerationMismatch,
    IndexStore,
    InvalidBatch,
    NotTaken,
    Outcome,
    OutcomeUnknown,
    SequenceConflict,
    Server,
    ShardDamaged,
    ShardWriter,
    Sources,
    StaleEpoch,
    StoreFull,
    StoreUnavailable,
    UnknownGeneration,
)

MakeBatch = Callable[..., Batch]


def everything(server: Server) -> dict[bytes, bytes]:
    """All keys with all that is in them."""
    return {key: server.ask("DUMP", key) for key in server.ask("KEYS", "*")}


def test_a_second_writer_fences_the_first(
    server: Server, writing: Server, writer: ShardWriter, one_row: MakeBatch
) -> None:
    """After another take, the older writer is refused and nothing is written."""
    writer.apply(one_row(1))
    successor = ShardWriter(writing, writer.info, 0)
    assert successor.take().seq == 1
    before = everything(server)
    with pytest.raises(StaleEpoch, match="take"):
        writer.apply(one_row(2))
    assert everything(server) == before
    assert successor.apply(one_row(2)) is Outcome.APPLIED


def test_a_late_write_of_an_emptied_store_is_refused(
    server: Server, writing: Server, writer: ShardWriter, one_row: MakeBatch
) -> None:
    """A store that was emptied reissues epochs and numbers; the chain still tells the old writer from the new."""
    server.ask("FLUSHALL")
    IndexStore(server, "shop").create_generation(writer.info)
    ShardWriter(writing, writer.info, 0).take()
    with pytest.raises(SequenceConflict):
        writer.apply(one_row(1))


@pytest.mark.parametrize("arrived", [True, False])
def test_after_a_lost_answer_take_tells_what_happened(
    writer: ShardWriter, one_row: MakeBatch, monkeypatch: pytest.MonkeyPatch, arrived: bool
) -> None:
    """Whether the write arrived or not, the writer must take again, and sending the batch again is safe."""
    real = Server.call

    def lossy(self: Server, function: str, *call: Any) -> list[Any]:
        if arrived:
            real(self, function, *call)
        raise StoreUnavailable("gone")

    with monkeypatch.context() as patch:
        patch.setattr(Server, "call", lossy)
        with pytest.raises(OutcomeUnknown, match="take"):
            writer.apply(one_row(1))
    with pytest.raises(NotTaken):
        writer.apply(one_row(1))
    assert writer.take().seq == int(arrived)
    assert writer.apply(one_row(1)) is (Outcome.DUPLICATE if arrived else Outcome.APPLIED)


def test_a_write_without_an_answer_is_sent_once() -> None:
    """The client of a writer never repeats a write by itself."""
    seen: list[bytes] = []

    def serve(listener: socket.socket) -> None:
        """Answer whatever sets up the connection, hang up on function calls."""
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    seen.append(data)
                    if b"FCALL" in data:
                        break
                    connection.sendall(b"+OK\r\n" * data.count(b"*"))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        with Server(url, writer=True, timeout_s=5) as server, pytest.raises(StoreUnavailable):
            server.call("apply", ["key"], [1])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert sum(data.count(b"FCALL") for data in seen) == 1


def test_a_conflict_writes_nothing(server: Server, writer: ShardWriter, one_row: MakeBatch) -> None:
    """Another batch under a number that is taken leaves every key as it was."""
    writer.apply(one_row(1))
    before = everything(server)
    with pytest.raises(SequenceConflict):
        writer.apply(one_row(1, value=2.0))
    assert everything(server) == before


def test_sources_are_part_of_what_makes_a_batch_the_same(writer: ShardWriter, one_row: MakeBatch) -> None:
    """A batch that differs in nothing but a source record is another batch."""
    writer.apply(one_row(1))
    with pytest.raises(SequenceConflict):
        writer.apply(replace(one_row(1), sources={"item-0": b"other"}))


def test_what_does_not_fit_is_refused_unsent(writer: ShardWriter, one_row: MakeBatch) -> None:
    """Wrong columns, shapes, dtypes, rows and ids are named, and the writer goes on."""
    rows, good = np.array([0, 1]), np.zeros((2, 3), "<f4")
    for wrong, named in [
        (Batch(1, 2, {"colour": [(rows, good)]}), "colour"),
        (Batch(1, 2, {"vectors": [(rows, good[:, :2])]}), r"\[2, 2\]"),
        (Batch(1, 2, {"vectors": [(rows, good.astype("<f8"))]}), "float64"),
        (Batch(1, 2, {"vectors": [(rows[:1], good)]}), "for 1 rows"),
        (Batch(1, 2, {"vectors": [(rows + 1, good)]}), r"\[0, 2\)"),
        (Batch(1, 2, {"vectors": [(rows - 1, good)]}), r"\[0, 2\)"),
        (Batch(1, 2, {"vectors": [(rows.astype(float), good)]}), "integers"),
        (Batch(1, 2, ids_set={"a": 2}), "'a'"),
        (Batch(1, 2, ids_set={"a": 1}, ids_deleted=["a"]), "both"),
    ]:
        with pytest.raises(InvalidBatch, match=named):
            writer.apply(wrong)
    with pytest.raises(BatchTooLarge, match="split"):
        writer.apply(Batch(1, 1, sources={"a": bytes(65 << 20)}))
    assert writer.apply(one_row(1)) is Outcome.APPLIED
    with pytest.raises(InvalidBatch, match="fall"):
        writer.apply(Batch(2, 0))


def test_a_foreign_value_under_a_key_is_found_before_the_first_write(
    server: Server, writer: ShardWriter, one_row: MakeBatch
) -> None:
    """Lua does not roll back, so a key of a wrong type must stop the batch before anything is written."""
    server.ask("LPUSH", writer.info.keys(0).block("neighbors", 0), "not a block")
    before = everything(server)
    with pytest.raises(ShardDamaged, match=r"shard 0.*neighbors:0.*restore a backup"):
        writer.apply(one_row(1))
    assert everything(server) == before


def test_a_full_store_is_named(server: Server, writer: ShardWriter, one_row: MakeBatch) -> None:
    """Without memory a batch is refused whole, taking still works, and with memory the writer goes on."""
    try:
        server.ask("CONFIG", "SET", "maxmemory", 1)
        with pytest.raises(StoreFull, match="maxmemory"):
            writer.apply(one_row(1))
        assert writer.take().seq == 0
    finally:
        server.ask("CONFIG", "SET", "maxmemory", 0)
    assert writer.apply(one_row(1)) is Outcome.APPLIED


def test_a_lost_function_library_is_loaded_again(server: Server, writer: ShardWriter, one_row: MakeBatch) -> None:
    """A new primary without functions costs nothing but a round trip."""
    server.ask("FUNCTION", "FLUSH")
    assert writer.apply(one_row(1)) is Outcome.APPLIED


def test_a_reader_s_client_does_not_write(server: Server, info: GenerationInfo) -> None:
    """A client that repeats lost commands is no writer's."""
    with pytest.raises(ValueError, match="writer=True"):
        ShardWriter(server, info, 0)


def test_an_absent_or_different_generation_is_refused(writing: Server, info: GenerationInfo) -> None:
    """A writer takes only the generation that its metadata describe."""
    with pytest.raises(UnknownGeneration, match="create_generation"):
        ShardWriter(writing, replace(info, name="g2"), 0).take()
    with pytest.raises(GenerationMismatch):
        ShardWriter(writing, replace(info, artefact_sha256="1" * 64), 0).take()
    with pytest.raises(ValueError, match="shard 1"):
        ShardWriter(writing, info, 1)


def test_a_generation_behind_does_not_set_source_records_back(
    server: Server, writing: Server, writer: ShardWriter, one_row: MakeBatch
) -> None:
    """Two generations read one stream: source records follow the one that is ahead, then whoever catches up."""
    writer.apply(one_row(1, value=10.0, next_offset=10))
    behind = replace(writer.info, name="g2")
    IndexStore(server, "shop").create_generation(behind)
    second = ShardWriter(writing, behind, 0)
    second.take()
    sources = Sources(server, "shop", 0)
    for next_offset, value, expected in [(5, 5.0, b"10"), (10, 10.0, b"10"), (11, 11.0, b"11")]:
        batch = one_row(second.position.seq + 1, value, next_offset)
        second.apply(replace(batch, sources={"item-0": b"%d" % value}))
        assert dict(sources)["item-0"].startswith(expected)
    assert sources.checkpoint() == Checkpoint(11, "cluster", "topic", 1, 1_000)
    assert second.position.checkpoint == sources.checkpoint()
    assert (len(sources), len(list(sources.get_many(["nothing", "item-0"])))) == (1, 1)
