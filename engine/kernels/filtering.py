"""Which rows a filter lets through, in compiled code: one pass over the columns, in blocks that stay in the cache."""

import numpy as np
from numba import njit

_BLOCK = 1024


@njit(nogil=True, cache=True)
def match(first, last, versions, numbers, attributes, all_of, any_of, ranged, low, high, mask):
    """Tell in mask: bool[n] which of the rows first … last − 1 hold an item that a filter lets through.

    versions: int64[n]. numbers: float64[n], NaN for none. attributes: int64[n, T], the tags of a row, then 0. all_of:
    int64, every one of which a row must have. any_of: the `table` of those of which it must have one, or empty. ranged:
    whether its number must be within low … high.
    """
    for start in range(first, last, _BLOCK):
        stop = min(start + _BLOCK, last)
        for row in range(start, stop):
            mask[row] = versions[row] > 0
        if ranged:
            for row in range(start, stop):
                mask[row] &= (numbers[row] >= low) & (numbers[row] <= high)
        for tag in all_of:
            if not mask[start:stop].any():
                break
            for row in range(start, stop):
                # All of them, as comparing many at once is faster than asking after each whether it was the last.
                carried = False
                for place in range(attributes.shape[1]):
                    carried |= attributes[row, place] == tag
                mask[row] &= carried
        if len(any_of):
            for row in range(start, stop):
                mask[row] = mask[row] and _carries_any(attributes, row, any_of)


@njit(nogil=True, cache=True)
def table(tags):
    """A hash table of tags int64[n]: int64[a power of two], 0 in free places, which at least three of four are."""
    size = 4
    while size < 4 * len(tags):
        size *= 2
    slots = np.zeros(size, np.int64)
    for tag in tags:
        slots[_slot(slots, tag)] = tag
    return slots


@njit(nogil=True, cache=True, inline="always")
def _slot(slots, tag):
    """Where a tag is in a table, or would be: tags are hashes already."""
    slot = tag & (len(slots) - 1)
    while slots[slot] != 0 and slots[slot] != tag:
        slot = (slot + 1) & (len(slots) - 1)
    return slot


@njit(nogil=True, cache=True, inline="always")
def _carries_any(attributes, row, any_of):
    for place in range(attributes.shape[1]):
        tag = attributes[row, place]
        if tag == 0:
            return False
        if any_of[_slot(any_of, tag)] == tag:
            return True
    return False
