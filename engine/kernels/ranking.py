"""The best of many in compiled code.

What is ranked are keys, int64: a value of 32 bits above a row, so that one comparison orders them and one move takes
both along. Larger values are larger keys, and so are lower rows of the same value. Arrays are passed whole, with a
line: taking a line out of one counts a reference to it.
"""

import numpy as np
from numba import njit

from engine.kernels import UNCOUNTED
from engine.kernels.instructions import bits_of_float, float_of_bits

_LOWER = 0xFFFF_FFFF
_WITHOUT_SIGN = 0x7FFF_FFFF


@njit(nogil=True, cache=True, inline="always")
def key_of(value, row):
    """The key of an int32 value and a row, 0 ≤ row < 2³²."""
    return (np.int64(value) << 32) | (_LOWER - row)


@njit(nogil=True, cache=True, inline="always")
def row_of(key):
    """The row of a key."""
    return _LOWER - (key & _LOWER)


@njit(nogil=True, cache=True, inline="always")
def value_of(key):
    """The value of a key."""
    return key >> 32


@njit(nogil=True, cache=True, inline="always")
def order_of(number):
    """A value that orders as float32 numbers do: their bits, those below the sign turned where it is set."""
    bits = np.int64(bits_of_float(number))
    return bits ^ ((bits >> 63) & _WITHOUT_SIGN)


@njit(nogil=True, cache=True, inline="always")
def number_of(order):
    """The float32 whose `order_of` this is."""
    return float_of_bits(np.int32(order ^ ((order >> 63) & _WITHOUT_SIGN)))


@njit(**UNCOUNTED)
def select(keys, line, first, stop, keep):
    """Bring the ``keep`` largest of a line's keys from ``first`` to before ``stop`` to the front of these.

    keys: int64[lines, n]. In any order. Quickselect (Hoare 1961) without branches on keys, which a CPU cannot foresee.
    """
    low, high = first, stop
    while low < first + keep < high:
        pivot, last = _middle_of(keys[line, low], keys[line, (low + high) // 2], keys[line, high - 1]), low
        for place in range(low, high):
            last += _swap_if(keys, line, place, last, keys[line, place] > pivot)
        if first + keep <= last:
            high = last
            continue
        if last == low:  # nothing is larger: it and its equals are next, however many there are
            for place in range(low, high):
                last += _swap_if(keys, line, place, last, keys[line, place] == pivot)
        low = last


@njit(**UNCOUNTED)
def sort(keys, line, count, copy):
    """Sort the first ``count`` keys of a line, few of them and no two equal, largest first. copy: int64[≥ count].

    Each goes to the place that says how many are larger: counted by vectors, where moving one by one would not be.
    """
    for place in range(count):
        copy[place] = keys[line, place]
    for place in range(count):
        key, larger = copy[place], 0
        for other in range(count):
            larger += copy[other] > key
        keys[line, larger] = key


@njit(nogil=True, cache=True, inline="always")
def _swap_if(keys, line, place, last, condition):
    """Swap two places of a line, only in effect where the condition holds; returns whether it does."""
    key, other = keys[line, place], keys[line, last]
    keys[line, place] = other if condition else key
    keys[line, last] = key if condition else other
    return 1 if condition else 0


@njit(nogil=True, cache=True, inline="always")
def _middle_of(a, b, c):
    return max(min(a, b), min(max(a, b), c))
