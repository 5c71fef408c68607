import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from consumers.worker import WorkerStatus
from messages import RecommendRequest, Status, parse_dead_letter
from tests.brokers import delete_topics, make_topic, makes_topics_when_named
from tests.consumers.stage import DIMENSIONS, Mailbox, Stage, best, fill, make_items, running, wait_until
from tests.integration.processes import worker_process, worker_processes

ITEMS = make_items(300)
EXACT: dict[str, Any] = {"beam": 300, "budget": 10_000}
PATIENT = {"timeout_ms": 120_000}
VECTORS = np.random.default_rng(5).normal(size=(120, DIMENSIONS)).astype(np.float32)


@pytest.fixture
def mailbox(stage: Stage) -> Iterator[Mailbox]:
    """A mailbox of a filled index."""
    fill(stage, ITEMS)
    mailbox = Mailbox(stage)
    yield mailbox
    mailbox.close()


def send(mailbox: Mailbox) -> dict[str, np.ndarray]:
    """Ask for every vector; by correlation id."""
    sent = {mailbox.send(RecommendRequest(vector=vector, **EXACT), **PATIENT): vector for vector in VECTORS}
    assert mailbox.stage.producer.flush(20) == 0
    return sent


def answers_so_far(mailbox: Mailbox) -> int:
    """How many requests have an answer."""
    mailbox.collect()
    return len(mailbox.answers)


def test_what_a_killed_worker_left_another_answers(mailbox: Mailbox) -> None:
    """SIGKILL with requests in flight: every one is answered, and where twice, with the same."""
    mirror = mailbox.stage.mirror()
    with worker_processes("requests", "requests", stage=mailbox.stage, lanes=2) as (first, _second):
        mailbox.ask(RecommendRequest(item="i0"), **PATIENT)
        sent = send(mailbox)
        wait_until(lambda: answers_so_far(mailbox) > 10, "the first answers")
        first.kill()
        mailbox.wait(*sent, timeout_s=30)
    for name, vector in sent.items():
        assert {answer.status for answer in mailbox.answers[name]} == {Status.OK}
        assert len({answer.items for answer in mailbox.answers[name]}) == 1
        assert [scored.item for scored in mailbox.answers[name][0].items] == best(mirror, vector, 10)


def test_a_reply_topic_that_does_not_exist_costs_one_request(real_kafka: str, mailbox: Mailbox) -> None:
    """Its request becomes a dead letter, and the worker goes on."""
    if makes_topics_when_named(real_kafka):
        pytest.skip(
            "writes to a topic that must not exist, and this Kafka makes every topic that is written to: "
            "set its auto.create.topics.enable to false"
        )
    stage = mailbox.stage
    with worker_process("requests", stage) as worker:
        mailbox.send(RecommendRequest(item="i0"), reply_to=stage.topics.replies("nobody"), **PATIENT)
        (letter,) = stage.letters(stage.topics.requests, 1)
        assert "UNKNOWN_TOPIC_OR_PART" in parse_dead_letter(letter.headers()).reason
        assert mailbox.ask(RecommendRequest(item="i0"), **PATIENT).status is Status.OK
        assert worker.poll() is None


def test_ordinary_requests_do_not_wait_for_the_topic_of_others(real_kafka: str, mailbox: Mailbox) -> None:
    """Of a deployment that had none: the worker says what it does without, serves, and reads it when it is there."""
    stage = mailbox.stage
    delete_topics(real_kafka, stage.topics.requests_high)
    worker = stage.request_worker()
    with running(worker):
        assert mailbox.ask(RecommendRequest(item="i0")).status is Status.OK
        said = f"requests of high priority, for want of the topic {stage.topics.requests_high}"
        wait_until(lambda: worker.status() == WorkerStatus(without=(said,)), "a word about it")
        make_topic(real_kafka, stage.topics.requests_high)
        assert mailbox.wait(mailbox.send(RecommendRequest(item="i0"), high=True), timeout_s=30)[0].status is Status.OK
        wait_until(lambda: worker.status() == WorkerStatus(), "both topics to be read")


def test_sigterm_ends_a_worker_with_nothing_left_open(mailbox: Mailbox) -> None:
    """What was taken is answered, the process ends with 0, and the next worker answers the rest: all once."""
    with worker_process("requests", mailbox.stage, lanes=2) as first:
        mailbox.ask(RecommendRequest(item="i0"), **PATIENT)
        sent = send(mailbox)
        wait_until(lambda: answers_so_far(mailbox) > 10, "the first answers")
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 0
        answered = answers_so_far(mailbox)
        late = mailbox.send(RecommendRequest(item="i0"), **PATIENT)
        with worker_process("requests", mailbox.stage):
            mailbox.wait(*sent, late)
    assert answered > 10
    assert all(len(mailbox.answers[name]) == 1 for name in sent)
