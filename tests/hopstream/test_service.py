"""What the service does when, with workers and servers that do as the test says."""

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest

from consumers.worker import WorkerStatus
from hopstream.errors import GenerationError
from hopstream.serving import service as module
from hopstream.serving.crew import Crew
from hopstream.serving.service import Service
from index_store import Column, GenerationInfo, LayoutMismatch, LogGap, StoreError, StoreUnavailable
from tests.consumers.stage import wait_until

G1 = GenerationInfo("t", "g1", "inner_product", "inner_product.4", "", "sha", (Column("vectors", "<f4", 4),))
G2 = replace(G1, name="g2")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often."""
    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(module, "_RETRY_S", 0.01)
    monkeypatch.setattr(module, "_LET_GO_S", 0.01)


@pytest.fixture(autouse=True)
def _garbage_is_looked_for() -> Iterator[None]:
    """What a service sets aside is looked through again for the tests behind this."""
    gc.unfreeze()
    yield
    gc.unfreeze()


class FakeWorker:
    """Works until it is stopped, or fails when told to; ready at once."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.name, self.diary = name, diary
        self.failure: Exception | None = None
        self._end = threading.Event()

    def prepare(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""

    def run(self) -> None:
        """Wait for the end."""
        self.diary.append(f"{self.name} begins")
        self._end.wait()
        self.diary.append(f"{self.name} ends")
        if self.failure is not None:
            raise self.failure

    def stop(self) -> None:
        """End."""
        self._end.set()

    def fail(self, error: Exception) -> None:
        """End with an error."""
        self.failure = error
        self._end.set()

    def status(self) -> WorkerStatus:
        """Ready."""
        return WorkerStatus()


class World:
    """Everything around the service: what Kafka lacks, which generation is active, whether workers can be made."""

    def __init__(self) -> None:
        self.kafka: tuple[str, str] | None = None
        self.store: GenerationInfo | StoreError | None = G1
        self.refusal: Exception | None = None
        self.making = threading.Event()
        self.made: list[FakeWorker] = []
        self.diary: list[str] = []
        self.closed: list[str] = []
        self.service = Service(self, self, self.make_crew)

    def problem(self) -> tuple[str, str] | None:
        """What Kafka lacks."""
        return self.kafka

    def active(self) -> GenerationInfo | None:
        """What the store says."""
        if isinstance(self.store, StoreError):
            raise self.store
        return self.store

    def make_crew(self, info: GenerationInfo) -> Crew:
        """Two workers."""
        self.making.set()
        self.diary.append(f"{info.name} is made")
        if self.refusal is not None:
            raise self.refusal
        workers = [FakeWorker(f"{info.name} {kind}", self.diary) for kind in ("requests", "items")]
        self.made += workers
        resources = ExitStack()
        resources.callback(self.closed.append, info.name)
        return Crew(info, workers, resources)

    @contextmanager
    def running(self) -> Iterator[list[BaseException]]:
        """Run the service for a block; yields a list of what ended it."""
        ended: list[BaseException] = []

        def run() -> None:
            try:
                self.service.run()
            except BaseException as error:  # noqa: BLE001 - the test looks at it
                ended.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield ended
        finally:
            self.service.stop()
            thread.join(30)
            assert not thread.is_alive()

    def serves(self, generation: str) -> bool:
        """Whether it does, and does it well."""
        health = self.service.health()
        return health.generation == generation and health.ready


def waits(world: World) -> str:
    """What the service waits for."""
    return "; ".join(world.service.health().waiting_for)


def test_everything_that_is_missing_is_named_until_it_is_there() -> None:
    """Kafka, a topic, the store, a generation: in whatever order they come."""
    world = World()
    world.kafka, world.store = ("k:1 does not answer (_TRANSPORT)", "…"), StoreUnavailable("away")
    with world.running() as ended:
        wait_until(
            lambda: waits(world) == "the store: it does not answer; Kafka: k:1 does not answer (_TRANSPORT)", "both"
        )
        world.store = None
        wait_until(lambda: waits(world).endswith("a generation: none is active"), "the generation")
        world.store, world.kafka = G1, ("no topic t.items", "…")
        wait_until(lambda: waits(world) == "Kafka: no topic t.items", "the topic")
        assert world.diary == []
        world.kafka = None
        wait_until(lambda: world.serves("g1"), "the workers")
    assert ended == []
    assert sorted(world.diary[-2:]) == ["g1 items ends", "g1 requests ends"]


@pytest.mark.parametrize(
    ("refusal", "said"),
    [
        (StoreUnavailable("just gone"), "workers: the store does not answer"),
        (LogGap("trimmed"), "workers: the index was written faster than it was loaded"),
    ],
)
def test_a_store_that_cannot_be_loaded_from_yet_is_waited_for(refusal: StoreError, said: str) -> None:
    """It answered the wait, and the mirror cannot be loaded: no end of the process, but another try, and the reason."""
    world = World()
    world.refusal = refusal
    with world.running() as ended:
        wait_until(lambda: world.diary.count("g1 is made") > 2, "tries")
        assert waits(world) == said
        world.refusal = None
        wait_until(lambda: world.serves("g1"), "the workers")
    assert ended == []


def test_workers_follow_the_active_generation_and_are_made_before_the_old_ones_go() -> None:
    """The order is: made, the old ones end, the new ones begin."""
    world = World()
    with world.running() as ended:
        wait_until(lambda: world.serves("g1"), "the first")
        world.store = G2
        wait_until(lambda: world.serves("g2"), "the second")
        wait_until(lambda: len(world.diary) == 8, "their beginning")
    assert ended == []
    assert world.closed == ["g1", "g2"]
    assert [entry.replace(" requests", "").replace(" items", "") for entry in world.diary[:8]] == [
        "g1 is made", "g1 begins", "g1 begins", "g2 is made", "g1 ends", "g1 ends", "g2 begins", "g2 begins",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "refusal", [GenerationError("no such file"), LayoutMismatch("newer"), StoreUnavailable("gone"), LogGap("trimmed")]
)
def test_a_generation_that_cannot_be_served_leaves_the_old_one_at_work(refusal: Exception) -> None:
    """It is tried again until it can, and nothing is stopped before."""
    world = World()
    with world.running() as ended:
        wait_until(lambda: world.serves("g1"), "the first")
        world.refusal, world.store = refusal, G2
        wait_until(lambda: world.diary.count("g2 is made") > 2, "tries")
        assert world.serves("g1")
        assert not [entry for entry in world.diary if entry.endswith("ends")]
        world.refusal = None
        wait_until(lambda: world.serves("g2"), "the second")
    assert ended == []


@pytest.mark.parametrize("problem", [LayoutMismatch("newer"), StoreUnavailable("away"), None])
def test_what_the_store_says_later_does_not_end_what_works(problem: StoreError | None) -> None:
    """Away, changed or without a generation: what is served stays served."""
    world = World()
    looked = threading.Event()
    active = world.active

    def look() -> GenerationInfo | None:
        if world.store is problem:
            looked.set()
        return active()

    world.active = look  # type: ignore[method-assign]
    with world.running() as ended:
        wait_until(lambda: world.serves("g1"), "the workers")
        world.store = problem
        assert looked.wait(30)
        looked.clear()
        assert looked.wait(30)
        assert world.serves("g1")
    assert ended == []


@pytest.mark.parametrize("place", ["store", "refusal"])
def test_what_no_waiting_mends_ends_the_service(place: str) -> None:
    """Another layout at the start is raised, whoever meets it."""
    world = World()
    setattr(world, place, LayoutMismatch("written by another release"))
    with world.running() as ended:
        wait_until(lambda: ended, "the end")
    assert isinstance(ended[0], LayoutMismatch)


def test_one_failed_worker_ends_all_the_others_in_order_and_is_what_is_raised() -> None:
    """The supervisor that starts the process again sees the error; the others have drained."""
    world = World()
    with world.running() as ended:
        wait_until(lambda: world.serves("g1"), "the workers")
        world.made[1].fail(RuntimeError("CUDA error"))
        wait_until(lambda: ended, "the end")
    assert str(ended[0]) == "CUDA error"
    assert world.diary[-2:] == ["g1 items ends", "g1 requests ends"]


def test_a_worker_that_fails_while_it_drains_is_not_overlooked() -> None:
    """Its error is raised after a stop, too: answers may have been lost with it."""
    world = World()
    with world.running() as ended:
        wait_until(lambda: world.serves("g1"), "the workers")
        world.made[0].failure = RuntimeError("not written")
    assert str(ended[0]) == "not written"


def test_a_stop_does_not_wait_long_for_workers_in_the_making() -> None:
    """A mirror may take minutes to load; nobody needs it any more."""
    world, let_go = World(), threading.Event()
    make: Callable[[GenerationInfo], Crew] = world.make_crew

    def slow(info: GenerationInfo) -> Crew:
        crew = make(info)
        let_go.wait()
        return crew

    world.service = Service(world, world, slow)
    with world.running() as ended:
        assert world.making.wait(30)
        assert waits(world) == "workers to get ready"
    let_go.set()
    assert ended == []
    assert world.diary == ["g1 is made"]


def test_a_stop_ends_workers_that_get_ready_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What they hold is let go, and the next generation's never begin."""
    monkeypatch.setattr(module, "_LET_GO_S", 30.0)
    world, let_go = World(), threading.Event()
    make: Callable[[GenerationInfo], Crew] = world.make_crew

    def slow(info: GenerationInfo) -> Crew:
        if info == G2:
            world.making.set()
            let_go.wait()
        return make(info)

    world.service = Service(world, world, slow)
    with world.running() as ended:
        wait_until(lambda: world.serves("g1"), "the first")
        world.making.clear()
        world.store = G2
        assert world.making.wait(30)
        world.service.stop()
        wait_until(lambda: world.closed == ["g1"], "the end of the first")
        let_go.set()
    assert ended == []
    assert world.closed == ["g1", "g2"]
    assert "g2 requests begins" not in world.diary


class Ring:
    """Holds itself: only the garbage collector sees when nobody else does."""

    def __init__(self) -> None:
        self.next = self


def test_garbage_is_looked_for_among_what_came_later_only() -> None:
    """What stands when workers begin is set aside, until others take their place."""
    world, ring = World(), Ring()
    alive = weakref.ref(ring)
    with world.running():
        wait_until(lambda: world.serves("g1") and gc.get_freeze_count() > 0, "set aside")
        del ring
        gc.collect()
        assert alive() is not None
        world.store = G2
        wait_until(lambda: world.serves("g2") and alive() is None, "collected after all")
        wait_until(lambda: gc.get_freeze_count() > 0, "set aside again")
