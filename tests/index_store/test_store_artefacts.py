"""Artefacts: what is put is what comes out, or nothing does."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from index_store import Artefacts, ArtefactTooLarge, ArtefactUnreadable, Server, StoreError, artefacts, connect
from index_store.keys import IndexKeys

FILES = {"a.json": b"{}", "b.bin": bytes(range(256)) * 40, "empty": b""}


@pytest.fixture(autouse=True)
def _short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "_CHUNK_BYTES", 1000)


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(min_size=1, max_size=20), st.binary(max_size=3500), max_size=4))
def test_what_is_put_comes_out(url: str, files: dict[str, bytes]) -> None:
    """Names and contents survive, whatever they are, under a digest that depends on all of them."""
    with connect(url) as server:
        stored = Artefacts(server, "shop")
        digest = stored.put(files)
        assert stored.get(digest) == files
        assert stored.put({**files, "one more": b""}) != digest


def test_it_lasts_and_may_be_repeated(server: Server) -> None:
    """A finished artefact does not expire, and putting it again changes nothing."""
    stored = Artefacts(server, "shop")
    digest = stored.put(FILES)
    assert stored.put(FILES) == digest
    assert server.ask("TTL", IndexKeys("shop").artefact(digest)) == -1
    assert stored.get(digest) == FILES


def test_indexes_do_not_share(server: Server) -> None:
    """An artefact belongs to one index: its key lies in that index's slot."""
    digest = Artefacts(server, "shop").put(FILES)
    with pytest.raises(ArtefactUnreadable, match=f"no artefact {digest}"):
        Artefacts(server, "other").get(digest)


@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("writes", [1, 2, 13])
def test_an_upload_that_is_cut_short_leaves_no_trace(
    server: Server, monkeypatch: pytest.MonkeyPatch, finished: bool, writes: int
) -> None:
    """Wherever it ends, nothing can be read, and what it wrote goes by itself; an artefact that is there stays."""
    stored, ask_all = Artefacts(server, "shop"), server.ask_all
    digest = stored.put(FILES) if finished else artefacts.artefact_digest(FILES)

    def die_later(*commands: Any, **options: Any) -> object:
        nonlocal writes
        writes -= 1
        if writes < 0:
            raise StoreError("the process is gone")
        return ask_all(*commands, **options)

    with monkeypatch.context() as patch:
        patch.setattr(server, "ask_all", die_later)
        with pytest.raises(StoreError, match="gone"):
            stored.put(FILES)
    expiries = {key: server.ask("TTL", key) for key in server.ask("KEYS", "*")}
    if finished:
        assert expiries.pop(IndexKeys("shop").artefact(digest).encode()) == -1
        assert stored.get(digest) == FILES
    else:
        with pytest.raises(ArtefactUnreadable, match="no artefact"):
            stored.get(digest)
    assert [0 < seconds <= 600 for seconds in expiries.values()] == [True]
    assert stored.put(FILES) == digest
    assert stored.get(digest) == FILES


def test_two_uploads_of_one_artefact_do_not_disturb_each_other(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that begins and ends while another is under way: both are done, and nothing else is left."""
    stored, ask_all = Artefacts(server, "shop"), server.ask_all

    def be_overtaken(*commands: Any, **options: Any) -> object:
        monkeypatch.undo()
        Artefacts(server, "shop").put(FILES)
        return ask_all(*commands, **options)

    monkeypatch.setattr(server, "ask_all", be_overtaken)
    digest = stored.put(FILES)
    assert server.ask("KEYS", "*") == [IndexKeys("shop").artefact(digest).encode()]
    assert server.ask("TTL", IndexKeys("shop").artefact(digest)) == -1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("b.bin:2000", b"short"),
        ("b.bin:2000", b"x" * 1000),
        ("b.bin:2000", None),
        ("manifest", b""),
        ("manifest", b"\xc1"),
        ("manifest", b"\x91\x01"),
        ("manifest", b"\x91\x92\xa1a\xff"),  # [["a", -1]]
        ("manifest", b"\x91\x92\xa1a\xcf" + b"\xff" * 8),  # [["a", 2**64 - 1]]
        ("manifest", b"\x90"),
        ("manifest", b"\x91" * 5000),
        ("manifest", b"\x91" * 4000),
    ],
)
def test_damage_is_found(server: Server, field: str, value: bytes | None) -> None:
    """A chunk that is lost, cut or changed, and a manifest that says anything else: refused, and mended by a put."""
    stored = Artefacts(server, "shop")
    digest = stored.put(FILES)
    key = IndexKeys("shop").artefact(digest)
    server.ask("HDEL", key, field) if value is None else server.ask("HSET", key, field, value)
    with pytest.raises(ArtefactUnreadable, match=r"damaged|claims more"):
        stored.get(digest)
    stored.put(FILES)
    assert stored.get(digest) == FILES


def test_what_is_too_large_is_refused_before_it_is_sent(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the other way; nothing is left in the store."""
    monkeypatch.setattr(artefacts, "MAX_ARTEFACT_BYTES", 5000)
    with pytest.raises(ArtefactTooLarge, match="--by-path"):
        Artefacts(server, "shop").put(FILES)
    assert server.ask("DBSIZE") == 0
