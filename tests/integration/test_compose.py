"""compose.yaml as an operator runs it: everything in containers, loaded and asked from the host."""

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hopstream import Item, RecommendClient, RecommendRequest
from hopstream.loading import load_items, now_ms
from index_store import IndexStore, connect
from producers import Writer
from tests.brokers import free_ports
from tests.consumers.stage import wait_until

ROOT = Path(__file__).parents[2]
DIMENSIONS = 64  # of the generation that compose.yaml makes
ITEMS = 200
VECTORS = np.random.default_rng(4).normal(size=(ITEMS, DIMENSIONS)).astype(np.float32)
ASKED = VECTORS[0]
BEST = [f"i{row}" for row in np.argsort(-(VECTORS @ ASKED))[:10]]
AWAY = -2 * VECTORS[:1]  # of items that are the best for it, and the worst for what is asked otherwise

DOCKER = shutil.which("docker") or ""
_LONG_RUNNING = ("kafka", "redis", "requests", "updates")


@dataclass(frozen=True)
class Deployment:
    """The project under a name and on ports of its own, beside whatever else runs here."""

    name: str
    kafka_port: int
    redis_port: int

    def compose(self, *arguments: str) -> str:
        """Run `docker compose`; what it printed."""
        ports = {"KAFKA_PORT": str(self.kafka_port), "REDIS_PORT": str(self.redis_port)}
        return _docker("compose", "--project-name", self.name, *arguments, HOPSTREAM_IMAGE="hopstream:test", **ports)

    def containers(self) -> dict[str, str]:
        """The containers of the long-running services, and since when they run."""
        identities = self.compose("ps", "--quiet", *_LONG_RUNNING).split()
        template = "{{.Id}} {{.State.StartedAt}} {{.State.Status}}"
        lines = _docker("inspect", "--format", template, *identities).splitlines()
        return dict(line.split(maxsplit=1) for line in lines)

    def load(self, ids: Sequence[str], vectors: np.ndarray) -> None:
        """Send items from the host; they are in the index when this returns."""
        items = [Item(name, vector=vector, timestamp_ms=now_ms()) for name, vector in zip(ids, vectors, strict=True)]
        with connect(f"redis://127.0.0.1:{self.redis_port}/0") as server, Writer(self._kafka) as writer:
            load_items(items, writer, IndexStore(server, "default"))

    def ask(self, vector: np.ndarray) -> list[str]:
        """Ask from the host, thoroughly; the items of the answer."""
        request = RecommendRequest(vector=vector, beam=2 * ITEMS, budget=10 * ITEMS)
        with RecommendClient(self._kafka, "default", client_id="compose-test", patience_s=30) as client:
            return [scored.item for scored in client.recommend(request, 60).items]

    @property
    def _kafka(self) -> str:
        return f"127.0.0.1:{self.kafka_port}"


@pytest.fixture(scope="module")
def started(docker: None) -> Iterator[Deployment]:
    """Everything up and ready, taken down with all its data."""
    if not DOCKER or subprocess.run([DOCKER, "compose", "version"], capture_output=True).returncode:
        pytest.skip("runs compose.yaml, and the docker command has no compose plugin: install docker-compose-plugin")
    deployment = Deployment(f"hopstream-test-{uuid.uuid4().hex[:8]}", *free_ports(2))
    try:
        deployment.compose("up", "--wait", "--build")
        yield deployment
    finally:
        deployment.compose("down", "--volumes", "--timeout", "5")


@pytest.fixture
def deployment(started: Deployment) -> Iterator[Deployment]:
    """The same, with items."""
    try:
        if not started.ask(ASKED):
            started.load([f"i{row}" for row in range(ITEMS)], VECTORS)
            wait_until(lambda: started.ask(ASKED) == BEST, "all items recommended")
        yield started
    finally:
        print(started.compose("logs", "--no-color", "--tail", "30"))  # noqa: T201 - for whoever reads of a failure


def test_a_new_item_is_recommended(deployment: Deployment) -> None:
    """An item added from the host is found by the workers in service."""
    deployment.load(["new"], AWAY)
    wait_until(lambda: "new" in deployment.ask(AWAY[0]), "the new item recommended")


def test_another_up_changes_nothing(deployment: Deployment) -> None:
    """No container is made or started again, and what was loaded is there."""
    before = deployment.containers()
    deployment.compose("up", "--wait")
    assert len(before) == len(_LONG_RUNNING)
    assert deployment.containers() == before
    assert deployment.ask(ASKED) == BEST


def test_a_crashed_worker_starts_again(deployment: Deployment) -> None:
    """A worker whose process dies is brought back without anybody, and a request meanwhile is answered."""
    before = deployment.containers()
    # Detached: the shell goes with the container that it ends.
    deployment.compose("exec", "--detach", "requests", "sh", "-c", "kill -KILL $(cat /proc/1/task/1/children)")
    wait_until(lambda: deployment.containers() != before, "the worker gone, or back")
    assert deployment.ask(ASKED) == BEST
    assert deployment.containers().keys() == before.keys()
    assert deployment.containers() != before


def test_a_killed_container_comes_back_with_up(deployment: Deployment) -> None:
    """`docker kill` is an operator's word, which the restart policy leaves alone; `up` is the operator's next."""
    deployment.compose("kill", "requests", "updates")
    assert len(deployment.containers()) == len(_LONG_RUNNING) - 2
    deployment.compose("up", "--wait")
    assert deployment.ask(ASKED) == BEST


def test_what_was_loaded_survives_down_and_up(deployment: Deployment) -> None:
    """The volumes keep Kafka's and Redis's data; new containers go on with them."""
    deployment.compose("down", "--timeout", "30")
    deployment.compose("up", "--wait")
    assert deployment.ask(ASKED) == BEST
    deployment.load(["later"], AWAY)
    wait_until(lambda: "later" in deployment.ask(AWAY[0]), "an item added afterwards recommended")


def _docker(*arguments: str, **environment: str) -> str:
    """Run docker; what it printed."""
    done = subprocess.run(
        [DOCKER, *arguments], cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, f"docker {' '.join(arguments)}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout
