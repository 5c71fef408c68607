"""What changes while the service answers: a new item, and something a user just did."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, cycle

import numpy as np
import torch

from engine.query import Query, SearchParams
from engine.search import exhaustive
from hopstream.data import Dataset
from hopstream.demo.scoring import K, Reference
from hopstream.demo.stage import Stage
from hopstream.errors import DemoError
from hopstream.loading import SHARD, now_ms
from messages import Behavior, HistoryEntry, Item, Recommendations, RecommendRequest
from producers import BehaviorProducer, ItemProducer

_PATIENCE_S = 20.0
_ASKERS = 256
_TOO_POPULAR = 50  # what nearly everybody has tells nothing about who takes it
_SHORT_HISTORY = 12


@dataclass(frozen=True, slots=True)
class NewItem:
    """How a new item fared: asked_by is the item that the asker has, place its place (from 1) in the first answer."""

    item: Item
    asked_by: str
    place: int
    milliseconds: float


@dataclass(frozen=True, slots=True)
class NewBehavior:
    """How one behaviour changed a list, beyond the item that it touched."""

    behavior: Behavior
    before: tuple[str, ...]
    after: tuple[str, ...]
    milliseconds: float


def new_item(data: Dataset, reference: Reference) -> Item:
    """An item that no catalogue has: described in words where items have words, else by a vector near a crowd."""
    name = next(name for name in _names("python3-hopstream") if name not in reference.mirror.row_of)
    if any(data.texts):
        return Item(
            name,
            text=f"{name} recommendations over event streams, client library (Python 3)",
            tags=("section::python", "implemented-in::python", "devel::library", "role::devel-lib"),
            timestamp_ms=now_ms(),
        )
    points = reference.index.points[: reference.index.rows]
    centre = points[: reference.index.rows // 2].mean(dim=0)
    typical = points[torch.argmax(points @ centre)]
    return Item(name, vector=(typical * 1.02).numpy(), timestamp_ms=now_ms())


def _names(name: str) -> Iterator[str]:
    """A name, and what to call another thing like it where it is taken."""
    yield name
    for number in count(2):
        yield f"{name}-{number}"


def watch_new_item(stage: Stage, reference: Reference, item: Item) -> NewItem | None:
    """Produce an item and ask until it is recommended to somebody who has something like it; None if nobody has."""
    asker = _who_should_see(reference, item)
    if asker is None:
        return None
    request = RecommendRequest(history=(HistoryEntry(asker),), k=K)
    produced = time.perf_counter()
    ItemProducer(stage.writer, stage.topics).put(item, partition=SHARD)
    answer = _ask_until(stage, request, lambda items: item.id in items)
    elapsed = (time.perf_counter() - produced) * 1000
    place = [scored.item for scored in answer.items].index(item.id) + 1
    return NewItem(item, asker, place, elapsed)


def watch_behavior(
    stage: Stage, reference: Reference, data: Dataset, requests: list[RecommendRequest]
) -> NewBehavior | None:
    """Produce a behaviour of an asker, and ask until the rest of their list has changed; None if none would change."""
    telling = _telling_behavior(reference, data, requests)
    if telling is None:
        return None
    request, touched = telling
    before = [scored.item for scored in stage.client.recommend(request).items]
    behavior = Behavior(str(request.user), touched, data.target_behavior, now_ms())
    produced = time.perf_counter()
    BehaviorProducer(stage.writer, stage.topics).put(behavior)
    answer = _ask_until(stage, request, lambda items: bool(set(items) - set(before) - {touched}))
    elapsed = (time.perf_counter() - produced) * 1000
    return NewBehavior(behavior, tuple(before), tuple(scored.item for scored in answer.items), elapsed)


def _ask_until(stage: Stage, request: RecommendRequest, seen: Callable[[list[str]], bool]) -> Recommendations:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        stage.check()
        stage.writer.poll()
        answer = stage.client.recommend(request)
        if seen([scored.item for scored in answer.items]):
            return answer
    raise DemoError(f"the change did not show in any answer for {_PATIENCE_S:g} s")


def _who_should_see(reference: Reference, item: Item) -> str | None:
    """An item whose owner should be shown the new one, by exhaustive scoring of an index that has both."""
    index = reference.index
    vectors, biases = reference.model.encoder.encode([item.id], [item.text], [item.tags], [item.vector])
    scratch = type(index)(index.metric, index.degree)
    rows = np.arange(index.rows + 1)
    state = torch.cat([index.state[: index.rows], index.metric.encode_items(*map(torch.from_numpy, (vectors, biases)))])
    split = index.metric.dimensions
    scratch.load(
        {
            "vectors": state[:, :split].numpy(),
            "biases": state[:, split:].numpy(),
            "versions": np.ones((len(rows), 1), dtype=np.int64),
        }
    )
    nearest = torch.topk(scratch.points[: index.rows] @ scratch.points[index.rows], min(_ASKERS, index.rows)).indices
    for row in nearest.numpy():
        query = Query(SearchParams(k=K), np.array([row]), np.array([1], dtype=np.int8), excluded=np.array([row]))
        [answer] = exhaustive(scratch, [query])
        if index.rows in answer.rows:
            return reference.mirror.items(np.array([row]))[0]
    return None


def _telling_behavior(
    reference: Reference, data: Dataset, requests: list[RecommendRequest]
) -> tuple[RecommendRequest, str] | None:
    """An asker and an item new to them after which their exhaustive list holds more than one new name."""
    popular = np.argsort(-np.bincount(data.train.items, minlength=len(data.items)))
    first = min(_TOO_POPULAR, len(popular) // 4)
    for request, code in zip(requests, cycle(popular[first:]), strict=False):
        item, query = data.items[code], reference.query(request)
        row = reference.mirror.row_of.get(item)
        if row is None or row in query.history_rows or not 0 < len(query.history_rows) <= _SHORT_HISTORY:
            continue
        more = Query(
            query.params,
            np.append(row, query.history_rows),
            np.append(np.int8(1), query.history_codes),
            excluded=np.append(query.excluded, row),
        )
        before, after = exhaustive(reference.index, [query, more])
        if len(set(after.rows) - set(before.rows)) > 1:
            return request, item
    return None
