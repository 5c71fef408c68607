"""From a request to a query: names become rows, what was left open gets its default."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from consumers.filters import filter_of
from consumers.mirror import Mirror
from engine.behavior_codes import BOTH, OTHER_ONLY, TARGET_ONLY
from engine.errors import InvalidQuery
from engine.mlp_metric import MAX_HISTORY
from engine.model import Model
from engine.query import Query, SearchParams
from index_store import History
from messages import RecommendRequest


@dataclass(frozen=True, slots=True)
class SearchDefaults:
    """What a request searches with unless it says otherwise, and what it may ask for at most."""

    beam: int = 64
    width: int = 64
    pairs: int = 64
    clusters: int = 2
    rounds: int | None = None
    budget: int = 500
    max_beam: int = 4_096


def touched(request: RecommendRequest, stored: History, target: str | None) -> dict[str, set[str]]:
    """What the asker touched, newest first: item → behaviours.

    The history that a request carries counts where nothing is stored: the user is new, or the store away. One item
    alone, and entries that name no behaviour, stand for the target behaviour.
    """
    unnamed = target or ""
    if request.item is not None:
        return {request.item: {unnamed}}
    events = [(at, item, behavior) for behavior, entries in stored.items() for item, at in entries]
    if events:
        events.sort(key=lambda event: -event[0])
        named = [(item, behavior) for _, item, behavior in events]
    else:
        named = [(entry.item, entry.behavior or unnamed) for entry in request.history]
    history: dict[str, set[str]] = {}
    for item, behavior in named:
        history.setdefault(item, set()).add(behavior)
    return history


def make_query(
    request: RecommendRequest,
    stored: History,
    mirror: Mirror,
    model: Model,
    defaults: SearchDefaults,
    deadline: float | None,
) -> Query:
    """The query of a request against this mirror.

    Names that the mirror does not hold are passed over. deadline: seconds on the monotonic clock. Raises `InvalidQuery`
    for a vector that does not fit the metric.
    """
    if request.vector is not None and request.vector.shape != (model.metric.dimensions,):
        raise InvalidQuery("vector", f"has {request.vector.size} dimensions, the metric {model.metric.dimensions}")
    history = touched(request, stored, model.target)
    rows, codes = _history_rows(history, mirror, model.target)
    barred = [*request.exclude, *_excluded(request, history, model.target)]
    k = request.k
    beam = min(request.beam or max(defaults.beam, k), defaults.max_beam)
    params = SearchParams(
        k=k,
        beam=max(beam, k),
        width=request.width or defaults.width,
        budget=request.budget or defaults.budget,
        pairs=defaults.pairs,
        clusters=defaults.clusters,
        rounds=defaults.rounds,
    )
    return Query(
        params,
        history_rows=rows[:MAX_HISTORY],
        history_codes=codes[:MAX_HISTORY],
        vector=request.vector,
        excluded=np.array(mirror.rows(barred), dtype=np.int64),
        mask=_mask(request, mirror),
        per_group=request.max_per_group or 0,
        deadline=deadline,
    )


def _mask(request: RecommendRequest, mirror: Mirror) -> np.ndarray | None:
    """bool[rows]: the rows that the request's filter lets through; None where it has none."""
    wanted = filter_of(request)
    return None if wanted is None else mirror.index.matching(wanted)


def _history_rows(history: Mapping[str, set[str]], mirror: Mirror, target: str | None) -> tuple[np.ndarray, np.ndarray]:
    rows, codes = [], []
    for item, behaviors in history.items():
        row = mirror.row_of.get(item)
        if row is not None:
            rows.append(row)
            codes.append(_code(behaviors, target))
    return np.array(rows, dtype=np.int64), np.array(codes, dtype=np.int8)


def _code(behaviors: set[str], target: str | None) -> int:
    if target is None or target not in behaviors:
        return OTHER_ONLY
    return TARGET_ONLY if len(behaviors) == 1 else BOTH


def _excluded(request: RecommendRequest, history: Mapping[str, set[str]], target: str | None) -> Sequence[str]:
    """Items of the history that must not come back: those of the target behaviour unless the request says otherwise.

    Where the metric knows no behaviours, what was touched counts as known.
    """
    if request.item is not None:
        return [request.item]
    names = request.exclude_behaviors
    if names is None:
        return [item for item, behaviors in history.items() if target is None or target in behaviors]
    return [item for item, behaviors in history.items() if behaviors & set(names)]
