"""`hopstream serve` as a process, looked at through its endpoint."""

import json
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from index_store import IndexStore
from messages import RecommendRequest, Status
from tests.brokers import mock_kafka
from tests.consumers.stage import QUICK, Mailbox, Stage, make_items, redis_away, wait_until
from tests.integration.processes import Process
from tests.servers import RedisProcess, redis_server

ITEMS = make_items(60)
PATIENT = {"timeout_ms": 120_000}


class Serving:
    """One process, and what it says of itself."""

    def __init__(self, process: Process) -> None:
        self.process = process

    @property
    def log(self) -> list[dict[str, Any]]:
        """What it has logged so far."""
        lines = self.process.output.split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def get(self, path: str) -> tuple[int, str]:
        """Status and body of one of its pages."""
        address = urlsplit(next(line["url"] for line in self.log if "url" in line))
        connection = HTTPConnection(address.hostname or "", address.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """What /readyz says."""
        status, body = self.get("/readyz")
        return status, json.loads(body)

    def wait_until_ready(self, generation: str) -> None:
        """Return when it serves a generation."""
        wait_until(lambda: self._serves(generation), f"{generation} to be served")

    def _serves(self, generation: str) -> bool:
        status, said = self.readiness()
        return status == 200 and said["generation"] == generation

    def wait_for(self, *expected: str) -> None:
        """Return when it waits for exactly these, each by the beginning of what it says."""

        def said() -> bool:
            status, body = self.readiness()
            waiting = body["waiting_for"]
            assert (status == 503) == bool(waiting)
            return len(waiting) == len(expected) and all(map(str.startswith, waiting, expected))

        wait_until(said, f"it to wait for {expected}")

    def metrics(self) -> dict[str, float]:
        """What /metrics says of ours."""
        lines = self.get("/metrics")[1].splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] == "h")}


@contextmanager
def serving(role: str, kafka: str, redis: str, index: str, options: Mapping[str, object] = QUICK) -> Iterator[Serving]:
    """Run the command; its endpoint is open when this yields."""
    environment = {
        "HOPSTREAM_INDEX__NAME": index,
        "HOPSTREAM_KAFKA__BOOTSTRAP_SERVERS": kafka,
        "HOPSTREAM_KAFKA__OPTIONS": json.dumps(options),
        "HOPSTREAM_REDIS__URL": redis,
    }
    with Process(["-m", "hopstream", "serve", role], environment) as process:
        served = Serving(process)
        wait_until(lambda: process.poll() is not None or any("url" in line for line in served.log), "the endpoint")
        assert process.poll() is None
        yield served


def activate(stage: Stage, name: str) -> None:
    """Let another generation of the same metric answer."""
    store = IndexStore(stage.server, stage.index)
    store.create_generation(replace(stage.info, name=name))
    store.activate(name)


def test_from_nothing_to_another_generation(kafka: str) -> None:
    """Everything is waited for and named; a change of generations loses no request and shows in answers."""
    with ExitStack() as stack:
        redis = RedisProcess(Path(stack.enter_context(tempfile.TemporaryDirectory())))
        stack.callback(redis.stop)
        served = stack.enter_context(serving("all", kafka, redis.url, index := f"s{uuid.uuid4().hex[:10]}"))
        served.wait_for("the store: ")
        assert served.get("/livez")[0] == 200
        redis.start()
        served.wait_for("a generation: none is active")
        stage = stack.enter_context(closing(Stage(kafka, redis.url, index=index)))
        served.wait_until_ready("g1")
        change_under_load(stage, served)
        served.process.terminate()
        assert served.process.wait(60) == 0
        events = [line["event"] for line in served.log]
        assert events.count("waiting for the store") == events.count("waiting for a generation") == 1


def change_under_load(stage: Stage, served: Serving) -> None:
    """Ask and ask while another generation becomes active."""
    mailbox = Mailbox(stage)
    stage.put(ITEMS)
    wait_until(lambda: len(mailbox.ask(RecommendRequest(item="i0"), **PATIENT).items) == 10, "items in answers")
    activate(stage, "g2")
    sent = []

    def changed() -> bool:
        sent.append(mailbox.send(RecommendRequest(item="i0"), **PATIENT))
        mailbox.collect()
        return any(answer[0].index_version.startswith("g2.") for answer in mailbox.answers.values())

    wait_until(changed, "an answer of the new generation")
    answers = mailbox.wait(*sent, timeout_s=60)
    assert {answer.status for answer in answers} == {Status.OK}
    assert {(answer.metric_version, answer.index_version.partition(".")[0]) for answer in answers} == {
        ("inner_product.8", "g1"), ("inner_product.8", "g2"),
    }  # fmt: skip
    served.wait_until_ready("g2")
    wait_until(lambda: served.metrics()["hopstream_mirror_items"] == len(ITEMS), "the new generation to be filled")
    # Items can be found before the batch that brought them is through: their links to what is relevant come after them.
    applied = f'hopstream_records_applied_total{{topic="{stage.topics.items}"}}'
    wait_until(lambda: served.metrics().get(applied) == 2 * len(ITEMS), "each item to be applied to both generations")
    assert_measured(stage, served, sum(map(len, mailbox.answers.values())))
    mailbox.close()


def assert_measured(stage: Stage, served: Serving, answered: int) -> None:
    """The metrics tell what was done."""
    measured = served.metrics()
    assert measured['hopstream_requests_total{priority="normal",status="ok"}'] == answered
    assert measured['hopstream_request_seconds_count{priority="normal"}'] == answered
    assert measured["hopstream_search_seconds_count"] == answered
    assert measured["hopstream_evaluations_total"] >= measured["hopstream_steps_total"] > 0
    assert measured["hopstream_lanes_busy"] == measured["hopstream_waiting_evaluations"] == 0
    assert measured[f'hopstream_partitions_held{{topic="{stage.topics.requests}"}}'] == 4
    others = f'hopstream_partitions_held{{topic="{stage.topics.requests_high}"}}'
    wait_until(lambda: served.metrics().get(others) == 4, "the other requests to be read")
    assert measured["hopstream_change_lag_seconds_count"] > 0
    assert measured["hopstream_store_available"] == 1
    (generation,) = (name for name in measured if name.startswith("hopstream_generation_info"))
    assert 'generation="g2"' in generation


def test_without_the_store_requests_are_ready_and_updates_are_not(kafka: str) -> None:
    """Answers are degraded and /readyz says so; items and behaviours wait. With the store, all is as before."""
    with (
        redis_server() as url,
        closing(Stage(kafka, url)) as stage,
        serving("requests", kafka, url, stage.index) as requests,
        serving("updates", kafka, url, stage.index) as updates,
    ):
        for served in (requests, updates):
            served.wait_until_ready("g1")
        with redis_away(url):
            wait_until(lambda: requests.readiness()[1]["without"] == ["the store"], "a word about the store")
            wait_until(lambda: updates.readiness()[0] == 503, "updates to wait")
            assert requests.readiness()[0] == 200
            assert requests.metrics()["hopstream_store_available"] == 0
            assert requests.get("/livez")[0] == updates.get("/livez")[0] == 200
        wait_until(lambda: requests.readiness()[1]["without"] == [], "the store")
        updates.wait_until_ready("g1")


def test_a_worker_that_loses_kafka_is_not_ready_and_alive(redis: str) -> None:
    """Whoever sends it nothing but requests over Kafka must know; restarting it would help nobody."""
    with ExitStack() as stack:
        with mock_kafka() as address, closing(Stage(address, redis)) as stage:
            served = stack.enter_context(serving("requests", address, redis, stage.index))
            served.wait_until_ready("g1")
        served.wait_for("Kafka ")
        assert served.get("/livez")[0] == 200


@pytest.mark.parametrize("role", ["requests", "all"])
def test_nothing_is_there_and_it_is_told_to_go(role: str) -> None:
    """All that is missing is named at once, and the end comes at once, with exit code 0."""
    with serving(role, "127.0.0.1:1", "redis://127.0.0.1:1/0", "t") as served:
        served.wait_for("the store: it does not answer", "Kafka: 127.0.0.1:1 does not answer")
        served.process.terminate()
        assert served.process.wait(10) == 0


def test_a_store_that_may_forget_ends_the_process() -> None:
    """What no waiting mends is an error with its remedy and exit code 1."""
    with redis_server("--maxmemory-policy", "allkeys-lru") as url, serving("all", "127.0.0.1:1", url, "t") as served:
        assert served.process.wait(60) == 1
        assert "set `maxmemory-policy noeviction`" in served.process.output
        assert "Traceback" not in served.process.output


def test_a_gpu_that_is_not_there_ends_the_process() -> None:
    """An error that names the setting, how many there are, and what to set instead."""
    with Process(["-m", "hopstream", "serve", "requests"], {"HOPSTREAM_WORKER__DEVICE": "cuda:99"}) as process:
        assert process.wait(60) == 1
        assert "worker.device: cuda:99: torch" in process.output
        assert "`cpu` needs none" in process.output
        assert "Traceback" not in process.output
