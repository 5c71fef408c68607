"""Peers: each finds what it should, in a process of its own, and one that cannot run is a line of the table."""

import os
import time

import numpy as np
import pytest

from benchmarks.machine import THREADS
from benchmarks.peers import PEERS, Peer, Unavailable, installed
from benchmarks.peers.contest import Measured, compete, exact, recall
from benchmarks.peers.peer import augmented_items, augmented_queries
from benchmarks.peers.process import PeerFailed, Task
from benchmarks.peers.trees import KdTree
from benchmarks.timing import Timing

INSTALLED = [peer for peer in PEERS if installed(peer)]
"""scipy's at least: the product itself needs that library."""


@pytest.fixture(scope="module")
def task():
    """300 items of unlike norms, 20 queries."""
    random = np.random.default_rng(5)
    vectors = random.normal(size=(300, 16)) * random.uniform(0.5, 1.5, size=(300, 1))
    return Task(vectors.astype(np.float32), random.normal(size=(20, 16)).astype(np.float32), 10, THREADS)


@pytest.mark.parametrize("peer", INSTALLED, ids=lambda peer: peer.library)
def test_recall_with_the_widest_setting(peer, task):
    """Nearly everything is found, by inner product, whatever the structure's own idea of near is."""
    contestant = peer(THREADS)
    contestant.build(augmented_items(task.vectors) if peer.euclidean else task.vectors)
    contestant.set(peer.settings[-1])
    queries = augmented_queries(task.queries) if peer.euclidean else task.queries
    rows = contestant.search(queries, task.k)
    assert rows.shape == (20, 10)
    assert recall(rows, exact(task)) >= 0.9


def test_augmentation_turns_products_into_distances(task):
    """The order by distance of augmented vectors is the order by inner product."""
    items, queries = augmented_items(task.vectors), augmented_queries(task.queries)
    distances = ((queries[:, None] - items[None]) ** 2).sum(axis=2)
    nearest = np.argsort(distances, axis=1)[:, : task.k]
    assert recall(nearest, exact(task)) == 1.0


def test_recall_is_the_share_of_wanted_rows():
    """Missing rows, −1, are none; order does not count."""
    assert recall(np.array([[3, 1, -1], [7, 8, 9]]), np.array([[1, 2, 3], [9, 8, 7]])) == pytest.approx(5 / 6)


class Missing(KdTree):
    """Its library is not there."""

    library = "missing"
    module = "no_such_library"


class Raising(KdTree):
    """Its library raises an error."""

    library = "raising"

    def build(self, vectors):
        """Fail."""
        raise ValueError("too few vectors")


class Crashing(KdTree):
    """Its library ends the process, in the middle of a search."""

    library = "crashing"

    def search(self, queries, k):
        """Crash."""
        os._exit(9)


class Slow(KdTree):
    """Its settings are the seconds that it takes at least."""

    library = "slow"
    settings = (0.2, 0.0, 0.4, 0.0)

    def search(self, queries, k):
        """Find nothing right, so that the sweep goes on."""
        time.sleep(self._eps)
        return np.full((len(queries), k), -1)


def test_a_sweep_ends_before_a_setting_that_takes_too_long(task):
    """The first setting counts, however long it takes: a peer without any would have no row."""
    measured = compete([Slow], task, rounds=1, progress=lambda _: None, patience=0.1)[Slow]
    assert isinstance(measured, Measured)
    assert measured.too_slow == 0.4
    assert measured.recalls == {0.2: 0.0, 0.0: 0.0}
    assert measured.timings.keys() == measured.recalls.keys()


def test_peers_that_cannot_run_leave_the_others_their_turns(task):
    """One without its library, one with an error and one that crashes: each says why; the sound one is measured."""
    peers: list[type[Peer]] = [Missing, Raising, Crashing, KdTree]
    results = compete(peers, task, rounds=2, progress=lambda _: None)
    assert list(results) == peers
    assert isinstance(results[Missing], Unavailable)
    assert "no_such_library" in str(results[Missing])
    assert isinstance(results[Raising], PeerFailed)
    assert "too few vectors" in str(results[Raising])
    assert isinstance(results[Crashing], PeerFailed)
    assert "code 9" in str(results[Crashing])
    measured = results[KdTree]
    assert isinstance(measured, Measured)
    assert max(measured.recalls.values()) == 1.0
    assert all(len(timing.seconds) == 2 for timing in measured.timings.values())


def test_seconds_at_a_recall_are_read_off_each_round():
    """Halfway between 0.9 and 1.0: the geometric mean of both settings' seconds, in every round."""
    timings = {1.0: Timing((1.0, 4.0)), 2.0: Timing((4.0, 16.0))}
    measured = Measured(0.0, {1.0: 0.9, 2.0: 1.0}, timings)
    at = measured.seconds_at(0.95)
    assert at is not None
    assert at.seconds == pytest.approx((2.0, 8.0))
    assert measured.points(queries=8) == [(0.9, pytest.approx(3.2)), (1.0, pytest.approx(0.8))]
    assert Measured(0.0, {1.0: 0.9}, {1.0: Timing((1.0,))}).seconds_at(0.95) is None
