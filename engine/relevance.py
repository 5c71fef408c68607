"""Links to what is relevant: of every row the rows that its own gradient points at, for a user who knows it alone.

The graph of `engine.graph` joins what is alike, whatever the metric makes of it. Most of what a user is to be shown is
relevant to one of the items that they know, and so is linked here: a first round then scores what a scan of the whole
catalogue would have to look for. For an inner product this is ip-NSW+ (Liu et al., AAAI 2020), a graph by inner
products beside one by distance; gradients make it one for every metric that has some at an item itself, as L2 has not.
Plans touch nothing.
"""

import numpy as np
import torch

from engine.behavior_codes import TARGET_ONLY
from engine.directions import farthest
from engine.graph import GraphChange, arithmetic
from engine.index import NO_NEIGHBOR, ROW_BLOCK, ItemIndex
from engine.kernels.byte_products import matrix_unit
from engine.kernels.products import padded
from engine.kernels.scan import find_along
from engine.kernels.threads import over_lanes
from engine.metric import Users
from engine.query import Query

HOSTS = 16
"""Rows that get new links for every new one: the most relevant to it. Relevance between items is nearly mutual, and
each row is some new one's host time and again: an index that grew in batches from nothing held 0.93 to 0.96 of the
links that were due at its end, with half as many hosts 0.88 to 0.92 (39,493 items)."""

_LANES = 128


def plan_relevant(index: ItemIndex, rows: np.ndarray) -> GraphChange:
    """The relevant links of items that are new or changed, and anew those of the rows most relevant to them.

    rows: int64[n], distinct; the items stand in the index already.
    """
    width = index.relevant.shape[1]
    found = _found(index, rows, width)
    hosts = np.setdiff1d(found[:, :HOSTS], np.append(rows, NO_NEIGHBOR))
    changed, lists = np.append(rows, hosts), np.concatenate([found, _found(index, hosts, width)])
    before = index.relevant[torch.from_numpy(changed).to(index.device)].cpu().numpy()
    new = (lists != before).any(axis=1)
    return GraphChange(changed[new], lists[new].astype(np.int32))


def plan_forget(index: ItemIndex, rows: np.ndarray) -> GraphChange:
    """Take rows int64[n] that are to be deleted out of the relevant links: what stays moves up. They keep none.

    Returns the rows that change; any row may be linked to by any number of others.
    """
    # One more than there are rows: NO_NEIGHBOR, −1, looks up the last and is not gone.
    gone = torch.zeros(index.rows + 1, dtype=torch.bool, device=index.device)
    gone[torch.as_tensor(rows, dtype=torch.int64, device=index.device)] = True
    linking = arithmetic(index).linking_to(index.relevant[: index.rows], gone[:-1])
    changed = torch.nonzero(linking | gone[:-1])[:, 0]
    lists = index.relevant[changed]
    lost = gone[lists] | gone[changed][:, None]
    order = lost.to(torch.uint8).argsort(dim=1, stable=True)
    lists = lists.masked_fill(lost, NO_NEIGHBOR).gather(1, order)
    return GraphChange(changed.cpu().numpy(), lists.cpu().numpy())


def _found(index: ItemIndex, rows: np.ndarray, width: int) -> np.ndarray:
    """The live rows that the gradients at rows int64[n] point at, farthest first: int64[n, width], −1 behind them."""
    found = np.full((len(rows), width), NO_NEIGHBOR)
    if width == 0 or len(rows) == 0:
        return found
    users = index.metric.make_users(min(_LANES, len(rows)), index.device)
    for start in range(0, len(rows), _LANES):
        part = slice(start, start + _LANES)
        slopes = _slopes(index, rows[part], users)
        if index.sketch is None:
            found[part] = _along(index, slopes, rows[part], width)
        else:
            given = slopes.numpy(), rows[part], index.columns, index.rows, matrix_unit()
            over_lanes(find_along, len(slopes), *given, found[part])
    return found


def _slopes(index: ItemIndex, rows: np.ndarray, users: Users) -> torch.Tensor:
    """Gradients float32[n, S] at rows int64[n], each for a user who knows that row alone."""
    queries = [Query(history_rows=row, history_codes=np.array([TARGET_ONLY], np.int8)) for row in rows[:, None]]
    lanes = np.arange(len(rows))
    index.metric.encode_users(queries, index.state, users, lanes)
    pairs, who = (torch.from_numpy(array).to(index.device) for array in (rows[:, None], lanes))
    return index.metric.score_with_tangents(index.state, pairs, users, who)[1][:, 0, :-1].contiguous()


def _along(index: ItemIndex, slopes: torch.Tensor, rows: np.ndarray, width: int) -> np.ndarray:
    """What `engine.kernels.scan.find_along` finds, where compiled code does not search."""
    marks = torch.zeros(1, index.capacity, dtype=torch.uint8, device=index.device)
    nobody = torch.zeros(len(rows), dtype=torch.int64, device=index.device)
    whole = padded(index.rows, ROW_BLOCK)
    found = farthest(index, marks, nobody, nobody + 1, slopes[:, None], width + 1, whole)[:, 0]
    own = found == torch.from_numpy(rows).to(index.device)[:, None]
    order = (own | (found == NO_NEIGHBOR)).to(torch.uint8).argsort(dim=1, stable=True)
    lists = torch.full((len(rows), width), NO_NEIGHBOR, device=index.device)
    kept = found.masked_fill(own, NO_NEIGHBOR).gather(1, order)[:, :width]
    lists[:, : kept.shape[1]] = kept
    return lists.cpu().numpy()
