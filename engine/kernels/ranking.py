"""The best of many in compiled code.

Arrays are passed whole, with a line: taking a line out of one counts a reference to it, which threads fight over.
"""

from numba import njit


@njit(nogil=True, cache=True)
def select(values, rows, line, count, keep):
    """Bring the ``keep`` largest of the first ``count`` values of a line to its front, in any order.

    values, rows: [lines, ≥ count], moved together. Quickselect (Hoare 1961) without branches on values, which a CPU
    cannot foresee.
    """
    low, high = 0, count
    while low < keep < high:
        pivot, last = _middle_of(values[line, low], values[line, (low + high) // 2], values[line, high - 1]), low
        for place in range(low, high):
            last += _swap_if(values, rows, line, place, last, values[line, place] > pivot)
        if keep <= last:
            high = last
            continue
        if last == low:  # nothing is larger: it and its equals are next, however many there are
            for place in range(low, high):
                last += _swap_if(values, rows, line, place, last, values[line, place] == pivot)
        low = last


@njit(nogil=True, cache=True)
def sort(values, rows, line, count):
    """Sort the first ``count`` values of a line, few of them, largest first; rows moves with values."""
    for last in range(1, count):
        value, row, place = values[line, last], rows[line, last], last
        while place > 0 and values[line, place - 1] < value:
            values[line, place], rows[line, place] = values[line, place - 1], rows[line, place - 1]
            place -= 1
        values[line, place], rows[line, place] = value, row


@njit(nogil=True, cache=True, inline="always")
def _swap_if(values, rows, line, place, last, condition):
    """Swap two places of a line, the first only in effect where the condition holds; returns whether it does."""
    value, row = values[line, place], rows[line, place]
    values[line, place] = values[line, last] if condition else value
    rows[line, place] = rows[line, last] if condition else row
    values[line, last] = value if condition else values[line, last]
    rows[line, last] = row if condition else rows[line, last]
    return 1 if condition else 0


@njit(nogil=True, cache=True, inline="always")
def _middle_of(a, b, c):
    return max(min(a, b), min(max(a, b), c))
