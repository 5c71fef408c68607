import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import msgpack
import numpy as np
import pytest

from consumers.engine_thread import Reply
from consumers.events import Record
from consumers.mirror import Mirror
from consumers.offsets import Ticket
from engine.fair_queue import Priority
from index_store import Checkpoint, GenerationMismatch, HistoryEvent, HistoryWriter, StoreUnavailable
from messages import (
    HistoryEntry,
    Recommendations,
    RecommendRequest,
    RequestHeaders,
    Status,
    encode,
    format_request,
    parse_dead_letter,
)
from tests.consumers.stage import (
    DIMENSIONS,
    Mailbox,
    Run,
    Stage,
    best,
    fill,
    make_items,
    redis_away,
    running,
    wait_until,
)
from tests.raw_records import write_with_header
from tests.servers import redis_server

ITEMS = make_items(300)
EXACT: dict[str, Any] = {"beam": 300, "budget": 10_000}


def names(answer: Recommendations) -> list[str]:
    """The ids of an answer."""
    return [scored.item for scored in answer.items]


@pytest.fixture(scope="module")
def served(kafka: str, redis: str) -> Iterator[tuple[Stage, Mailbox, Mirror]]:
    """A filled index that is served, a mailbox to ask with, and a mirror of the index."""
    stage = Stage(kafka, redis)
    fill(stage, ITEMS)
    histories = HistoryWriter(stage.writing, stage.index, 0)
    histories.take()
    histories.append(
        [HistoryEvent(n, "anna", "view", f"i{n}", 1000 + n) for n in range(5)],
        Checkpoint(5, "cluster", "topic", 4, 1000),
    )
    mailbox = Mailbox(stage)
    with running(stage.request_worker()):
        yield stage, mailbox, stage.mirror()
    mailbox.close()
    stage.close()


Served = tuple[Stage, Mailbox, Mirror]


def test_many_at_once_are_answered_once_and_exactly(served: Served) -> None:
    """Five hundred at once: one answer each, with the ids of exhaustive scoring, and the versions that made them."""
    _, mailbox, mirror = served
    vectors = np.random.default_rng(3).normal(size=(500, DIMENSIONS)).astype(np.float32)
    sent = {mailbox.send(RecommendRequest(vector=vector, **EXACT)): vector for vector in vectors}
    mailbox.wait(*sent)
    mailbox.collect()
    for name, vector in sent.items():
        (answer,) = mailbox.answers[name]
        assert (answer.status, answer.degraded, answer.reason) == (Status.OK, False, None)
        assert names(answer) == best(mirror, vector, 10)
        assert (answer.metric_version, answer.index_version) == ("inner_product.8", mirror.version)


def test_a_user_is_known_by_the_stored_history(served: Served) -> None:
    """The stored history makes the answer and is left out of it; a carried one only counts for an unknown user."""
    _, mailbox, mirror = served
    history = tuple(HistoryEntry(f"i{n}") for n in (4, 3, 2, 1, 0))
    other = (HistoryEntry("i9"),)
    anna, like_anna, new = mailbox.wait(
        mailbox.send(RecommendRequest(user="anna", history=other, **EXACT)),
        mailbox.send(RecommendRequest(history=history, **EXACT)),
        mailbox.send(RecommendRequest(user="new", history=other, **EXACT)),
    )
    rows = np.array(mirror.rows(entry.item for entry in history))
    expected = best(mirror, mirror.index.points[rows].mean(dim=0).numpy(), 10, excluded=rows)
    assert names(anna) == names(like_anna) == expected
    assert names(new) == names(mailbox.ask(RecommendRequest(item="i9", **EXACT)))
    everything = mailbox.ask(RecommendRequest(user="anna", exclude_behaviors=(), k=300, **EXACT))
    assert len(names(everything)) == 300


def test_nobody_knows_this_user(served: Served) -> None:
    """A user without a history gets k items all the same."""
    answer = served[1].ask(RecommendRequest(user="nobody"))
    assert (answer.status, len(answer.items), answer.degraded) == (Status.OK, 10, False)


def test_filters_and_exclusions_hold(served: Served) -> None:
    """Only items with the tags and in the range, none of thousands excluded, fewer than k where there are no more."""
    _, mailbox, _ = served
    request = RecommendRequest(vector=ITEMS[0].vector, tags=("third",), exclude=("i0", "i3"), k=200)
    found = names(mailbox.ask(request))
    assert set(found) == {f"i{n}" for n in range(6, 300, 3)}
    chosen = RecommendRequest(
        vector=ITEMS[0].vector, any_tags=("third", "fourth"), min_number=3, max_number=6, exclude=("i36",), k=200
    )
    assert set(names(mailbox.ask(chosen))) == {"i30", "i42", "i48", "i54", "i60"}
    few = RecommendRequest(vector=ITEMS[0].vector, exclude=tuple(f"i{n}" for n in range(5, 10_000)), k=200)
    assert set(names(mailbox.ask(few))) == {"i0", "i1", "i2", "i3", "i4"}
    answer = mailbox.ask(RecommendRequest(item="elsewhere", tags=("nobody has this",)))
    assert (answer.status, answer.items, answer.reason) == (Status.OK, (), "unknown_item")


def test_what_cannot_be_understood_is_answered(served: Served) -> None:
    """Malformed, unsupported and unfit requests get an answer that says so."""
    _, mailbox, _ = served
    newer = msgpack.packb({**msgpack.unpackb(encode(RecommendRequest(item="i0"))), "v": (9, 0)})
    malformed, empty, unsupported, unfit = mailbox.wait(
        mailbox.send(b"\xc1 no msgpack"),
        mailbox.send(b""),
        mailbox.send(newer),
        mailbox.send(RecommendRequest(vector=np.ones(3, np.float32))),
    )
    assert malformed.status is empty.status is unfit.status is Status.MALFORMED
    assert unsupported.status is Status.UNSUPPORTED
    assert unfit.reason == "vector: has 3 dimensions, the metric 8"


def test_what_is_late_has_expired(served: Served) -> None:
    """A request whose time was up before it was read is not computed; the broker's timestamp counts."""
    stage, mailbox, _ = served
    now_ms = int(time.time() * 1000)
    for name, at in (("late", now_ms - 60_000), ("early", now_ms + 3_600_000)):
        headers = [("correlation_id", name.encode()), ("reply_to", mailbox.topic.encode()), ("timeout_ms", b"9000")]
        stage.produce(stage.topics.requests, None, encode(RecommendRequest(item="i0")), headers=headers, timestamp=at)
    late, early = mailbox.wait("late", "early")
    assert (late.status, late.items) == (Status.EXPIRED, ())
    assert early.status is Status.OK


def test_who_cannot_be_answered_becomes_a_dead_letter(new_stage: Callable[..., Stage]) -> None:
    """No headers, or none that are text, no reply topic, a partition that is not there: the original, and why."""
    stage = new_stage()
    mailbox = Mailbox(stage)
    fill(stage, ITEMS[:20])
    body = encode(RecommendRequest(item="i0"))
    with running(stage.request_worker()):
        stage.produce(stage.topics.requests, b"k0", b"\x00\xff", headers=[("correlation_id", b"x")])
        for topic, partition in ((f"{stage.index}.items", None), (mailbox.topic, b"77")):
            headers = [("correlation_id", b"x"), ("reply_to", topic.encode())]
            headers += [("reply_partition", partition)] if partition else []
            stage.produce(stage.topics.requests, b"k1", body, headers=headers)
        assert stage.producer.flush(20) == 0
        write_with_header(stage.kafka, stage.topics.requests, b"k2", b"unread", b"\xff\xfe")
        assert mailbox.ask(RecommendRequest(item="i0")).status is Status.OK
        letters = stage.letters(stage.topics.requests, 4)
        reasons: dict[bytes, list[tuple[bytes, int, str]]] = {letter.value(): [] for letter in letters}
        for letter in letters:
            origin = parse_dead_letter(letter.headers())
            reasons[letter.value()].append((letter.key(), origin.offset, origin.reason))
    assert reasons[b"\x00\xff"] == [(b"k0", 0, "reply_to: missing")]
    assert [(key, reason) for key, _, reason in reasons[b"unread"]] == [(b"k2", "headers: a name is not UTF-8")]
    items, nowhere = sorted(reasons[body], key=lambda letter: letter[1])
    assert items == (b"k1", 1, f"reply_to: {stage.index}.items is no topic for answers")
    assert nowhere[:2] == (b"k1", 2)
    assert "_UNKNOWN_PARTITION" in nowhere[2]
    mailbox.close()


def test_an_item_that_is_written_is_found_by_the_running_worker(new_stage: Callable[..., Stage]) -> None:
    """A worker that began with an empty shard follows the log: put, changed, deleted."""
    stage = new_stage()
    mailbox = Mailbox(stage)
    ask = RecommendRequest(vector=np.ones(DIMENSIONS, np.float32), k=3)
    with running(stage.request_worker()), running(stage.item_writer()):
        empty = mailbox.ask(ask)
        assert (empty.status, empty.items, empty.reason) == (Status.OK, (), "empty_index")
        stage.put(ITEMS[:50])
        wait_until(lambda: len(names(mailbox.ask(ask))) == 3, "items in answers")
        first = names(mailbox.ask(ask))[0]
        stage.delete(first)
        wait_until(lambda: first not in names(mailbox.ask(ask)), "the deletion in answers")
    mailbox.close()


def test_without_the_store_answers_are_degraded_and_recover(kafka: str) -> None:
    """While Redis is away, users are answered by what their requests carry; once it answers again, all is as before."""
    with redis_server() as url:
        stage = Stage(kafka, url)
        fill(stage, ITEMS)
        mailbox = Mailbox(stage)
        request = RecommendRequest(user="new", history=(HistoryEntry("i9"),), **EXACT)
        with running(stage.request_worker()):
            before = mailbox.ask(request)
            with redis_away(url):
                wait_until(lambda: mailbox.ask(request).degraded, "a degraded answer")
                assert names(mailbox.ask(request)) == names(before)
                nobody = mailbox.ask(RecommendRequest(user="nobody"))
                assert (nobody.status, nobody.degraded, len(nobody.items)) == (Status.OK, True, 10)
            wait_until(lambda: not mailbox.ask(request).degraded, "an answer that is whole again")
            assert names(mailbox.ask(request)) == names(before)
        mailbox.close()
        stage.close()


def test_a_worker_without_a_store_does_not_start(kafka: str) -> None:
    """It joins no group without a loaded mirror, and ends with the store's error."""
    with redis_server() as url:
        stage = Stage(kafka, url)
        worker = stage.request_worker()
    with pytest.raises(StoreUnavailable):
        worker.run()
    stage.close()


def test_another_model_is_refused(stage: Stage) -> None:
    """A worker does not serve a generation that was made with another artefact."""
    stage.info = replace(stage.info, artefact_sha256="another")
    with pytest.raises(GenerationMismatch, match="was made with artefact another"):
        stage.request_worker()


def test_a_fault_of_the_engine_ends_the_worker(new_stage: Callable[..., Stage]) -> None:
    """What the engine thread raises is what `run` raises, and the request stays open for another worker."""
    stage = new_stage()
    fill(stage, ITEMS[:20])
    mailbox = Mailbox(stage)
    worker = stage.request_worker()
    worker.prepare()

    def broken(*_: object) -> None:
        raise RuntimeError("CUDA error")

    worker._engine._scheduler.step = broken  # type: ignore[method-assign, assignment]
    run = Run(worker)
    name = mailbox.send(RecommendRequest(item="i0"), timeout_ms=120_000)
    run.thread.join(60)
    assert isinstance(run.failure, RuntimeError)
    with running(stage.request_worker()):
        assert mailbox.wait(name)[0].status is Status.OK
    mailbox.close()


def test_requests_of_both_priorities_are_answered_once(new_stage: Callable[..., Stage]) -> None:
    """At the same offsets of the same partition, with as many of them in work: none is taken for another one."""
    stage = new_stage()
    fill(stage, ITEMS)
    mailbox, mirror = Mailbox(stage), stage.mirror()
    sent = {
        mailbox.send(RecommendRequest(vector=item.vector, **EXACT), high=n % 2 == 0, partition=0): item
        for n, item in enumerate(ITEMS)
    }
    stage.producer.flush()
    with running(stage.request_worker(lanes=4)):
        answers = mailbox.wait(*sent, timeout_s=60)
    for answer, item in zip(answers, sent.values(), strict=True):
        assert item.vector is not None
        assert names(answer) == best(mirror, item.vector, 10)
    with running(stage.request_worker()):
        mailbox.wait(*(mailbox.send(RecommendRequest(item="i0"), high=high, partition=0) for high in (True, False)))
    mailbox.collect()
    assert all(len(mailbox.answers[name]) == 1 for name in sent)
    mailbox.close()


def test_what_goes_first_does_not_wait_in_the_inbox(stage: Stage) -> None:
    """Of what has come, answers are published first, then requests of high priority are handed on, then the others."""
    worker, taken = stage.request_worker(), []
    worker._check = lambda: None  # type: ignore[method-assign]
    worker._outbox.publish = lambda reply: taken.append((reply.record.topic, reply.record.ticket.offset))  # type: ignore[method-assign]
    worker._engine.submit = lambda question: taken.append(  # type: ignore[method-assign]
        (question.record.topic, question.record.ticket.offset, question.priority)
    )
    ordinary, high = stage.topics.requests, stage.topics.requests_high
    headers = RequestHeaders("c", stage.topics.replies("tests"))
    for offset in range(200):
        for topic in (ordinary, high):
            record = Record(
                Ticket(0, offset, 1), 0, topic, None, encode(RecommendRequest(item="i0")), format_request(headers), -1
            )
            worker._intakes[topic]._deliver(record)
            worker._engine._reply(Reply(record, headers, Recommendations(Status.OK)))
    worker._turn()
    first, second, third = taken[:400], taken[400:528], taken[528:]
    assert sorted(first) == sorted((topic, offset) for topic in (ordinary, high) for offset in range(200))
    assert second == [(high, offset, Priority.HIGH) for offset in range(128)]
    assert third == [(ordinary, offset, Priority.NORMAL) for offset in range(128)]
    for _ in range(2):
        worker._turn()
    assert len(taken) == 800
    worker.close()


def test_what_was_taken_is_answered_before_the_end(new_stage: Callable[..., Stage]) -> None:
    """After `stop` nothing that was read is left unanswered, and the next worker gets none of it again."""
    stage = new_stage()
    fill(stage, ITEMS)
    mailbox = Mailbox(stage)
    sent = [mailbox.send(RecommendRequest(vector=item.vector, **EXACT)) for item in ITEMS]
    stage.producer.flush()
    first = stage.request_worker(lanes=4)
    with running(first):
        wait_until(lambda: first.answered > 0, "the first answers")
    with running(stage.request_worker()):
        mailbox.wait(*sent)
        mailbox.ask(RecommendRequest(item="i0"))
    assert all(len(mailbox.answers[name]) == 1 for name in sent)
    mailbox.close()
