"""`hopstream index info` and `verify` as their user runs them."""

import json
from collections.abc import Iterator

import pytest

from consumers.behavior_updater import behavior_updater
from index_store import HistoryStore
from messages import Behavior, encode
from tests.consumers.stage import QUICK, Stage, fill, make_items, running, wait_until
from tests.hopstream.test_cli import run

NOBODY = "127.0.0.1:1"


@pytest.fixture
def stage(kafka: str, redis: str) -> Iterator[Stage]:
    """An index without items."""
    stage = Stage(kafka, redis)
    yield stage
    stage.close()


def index(stage: Stage, *arguments: str, kafka: str | None = None) -> tuple[int, str, str]:
    """Exit code, output and errors of a command about the stage's index."""
    done = run("--index", stage.index, "--redis", stage.redis, "--kafka", kafka or stage.kafka, "index", *arguments)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def test_info_tells_sizes_positions_and_lags(stage: Stage) -> None:
    """One object on one line; the lag is that of the moment."""
    stage.producer.list_topics(stage.topics.behaviors, timeout=10)  # makes it
    with running(stage.item_writer()):
        stage.put(make_items(40))
        wait_until(lambda: stage.count() == 40, "the items")
        stage.delete("i1")
        wait_until(lambda: stage.count() == 39, "the deletion")
    stage.put(make_items(2, prefix="unread"))
    code, out, _ = index(stage, "info", "--json")
    assert code == 0
    (line,) = out.splitlines()
    told = json.loads(line)
    (generation,) = told["generations"]
    (shard,) = generation["shards"]
    assert (told["index"], told["store"]["policy"], told["store"]["aof"]) == (stage.index, "noeviction", False)
    assert (generation["name"], generation["active"], generation["dimensions"]) == ("g1", True, 8)
    assert (shard["items"], shard["rows"], shard["freed_rows"]) == (39, 40, 1)
    assert shard["seq"] == shard["log_entries"] > 1
    assert min(shard["log_bytes"], shard["block_bytes"]) > 40 * 8 * 4
    assert (shard["position"]["offset"], shard["position"]["lag"]) == (41, 2)
    assert [(partition["offset"], partition["lag"]) for partition in told["histories"]] == [(None, 0)] * 4
    assert told["notes"] == []


def test_info_without_kafka_has_no_lag_and_says_so(stage: Stage) -> None:
    """A broker that does not answer costs the lag alone; the tables show what is in the store."""
    fill(stage, make_items(20))
    stage.produce(stage.topics.behaviors, "anna", encode(Behavior("anna", "i0", "view", 1000)))
    assert stage.producer.flush(20) == 0
    histories = HistoryStore(stage.server, stage.index)
    with running(behavior_updater(stage.kafka, stage.writing, stage.index, QUICK)):
        wait_until(lambda: 0 in histories.positions(), "the behaviour")
    code, out, _ = index(stage, "info", "--json", kafka=NOBODY)
    told = json.loads(out)
    assert code == 0
    assert told["generations"][0]["shards"][0]["position"]["lag"] is None
    assert [(partition["offset"], partition["lag"]) for partition in told["histories"]] == [(1, None)]
    assert NOBODY in told["notes"][0]
    code, out, _ = index(stage, "info", kafka=NOBODY)
    assert code == 0
    assert "20 items in 20 rows (0 freed)" in out
    assert "lag unknown" in out


def test_verify_ends_with_1_where_something_is_wrong(stage: Stage) -> None:
    """Sound is 0; a fault is 1, named with its count and an example; an index without a generation is an error."""
    fill(stage, make_items(20))
    code, out, _ = index(stage, "verify", "--json")
    report = json.loads(out)
    assert code == 0
    assert {"sound": True, "items": 20, "rows": 20, "offset": 20, "lag": None, "faults": []}.items() <= report.items()
    stage.server.ask("HDEL", stage.info.keys(0).sources, "i5")
    code, out, _ = index(stage, "verify", "--json", "--quick")
    assert code == 1
    assert json.loads(out)["faults"] == [{"kind": "source_missing", "count": 1, "examples": ["'i5'"]}]
    code, out, _ = index(stage, "verify", "--generation", "g1")
    assert code == 1
    assert "not sound" in out
    assert "source_missing" in out
    code, out, err = index(stage, "verify", "--generation", "nowhere", "--json")
    assert (code, out) == (1, "")
    assert "no generation 'nowhere'" in err
