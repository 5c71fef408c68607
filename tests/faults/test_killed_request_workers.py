"""Request workers that come and go under load."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient

from messages import RecommendRequest, Status
from tests.consumers.stage import DIMENSIONS, Mailbox, Stage, fill, make_items, wait_until
from tests.faults.conftest import Figure
from tests.integration.processes import worker_process, worker_processes

REQUESTS_PER_SECOND = 200


class Load:
    """Requests at a steady rate from a thread of its own, until told to stop."""

    def __init__(self, stage: Stage) -> None:
        self.mailbox = Mailbox(stage)
        self.sent: list[str] = []
        self._vectors = np.random.default_rng(6).normal(size=(1000, DIMENSIONS)).astype(np.float32)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stopping.wait(1 / REQUESTS_PER_SECOND):
            request = RecommendRequest(vector=self._vectors[len(self.sent) % 1000])
            self.sent.append(self.mailbox.send(request, timeout_ms=300_000))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send for the length of a block."""
        self._thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            self._thread.join()

    def go_on(self, count: int) -> None:
        """Wait until so many more answers have come."""
        enough = self._answered() + count
        wait_until(lambda: self._answered() >= enough, "more answers")

    def _answered(self) -> int:
        self.mailbox.collect()
        return len(self.mailbox.answers)


def working_members(stage: Stage) -> set[str]:
    """The members of the group that have partitions of the requests topic."""
    admin, group = AdminClient({"bootstrap.servers": stage.kafka}), f"{stage.index}.request-workers"
    members = admin.describe_consumer_groups([group])[group].result().members
    return {member.member_id for member in members if member.assignment and member.assignment.topic_partitions}


@pytest.mark.usefixtures("real_kafka")
def test_workers_killed_joining_and_leaving_answer_every_request(stage: Stage, record_property: Figure) -> None:
    """Two share the topic, one is killed, one joins, one leaves: every request is answered, if twice with the same."""
    fill(stage, make_items(2000))
    load = Load(stage)
    with worker_processes("requests", "requests", stage=stage) as (killed, leaving), load.running():
        wait_until(lambda: len(working_members(stage)) == 2, "both to share the topic")
        first = working_members(stage)
        load.go_on(500)
        killed.kill()
        load.go_on(500)
        with worker_process("requests", stage):
            wait_until(lambda: working_members(stage) - first, "one to join")
            load.go_on(500)
            leaving.send_signal(signal.SIGTERM)
            wait_until(lambda: leaving.poll() is not None, "the worker to leave")
            assert leaving.returncode == 0
            load.go_on(500)
            sent = list(load.sent)
            load.mailbox.wait(*sent, timeout_s=60)
    answers = load.mailbox.answers
    load.mailbox.close()
    assert {answer.status for name in sent for answer in answers[name]} == {Status.OK}
    assert all(len({answer.items for answer in answers[name]}) == 1 for name in sent)
    record_property("requests", len(sent))
    record_property("answered", sum(name in answers for name in sent))
    record_property("duplicates", sum(len(answers[name]) - 1 for name in sent))
