"""The best of many in compiled code: heaps, one a line, whose root is the worst that is kept.

Arrays are passed whole, with an index: taking a line out of one counts a reference to it, which threads fight over.
"""

from numba import njit


@njit(nogil=True, cache=True)
def offer(values, rows, heap, size, keep, value, row):
    """Offer a value to a heap of the largest; returns how many it holds then. None may be offered twice.

    values, rows: [heaps, ≥ keep], of whose line ``heap`` ``size`` places are taken. One that holds ``keep`` gives up
    its smallest.
    """
    if size < keep:
        place = size
        while place > 0:
            parent = (place - 1) // 2
            if values[heap, parent] <= value:
                break
            values[heap, place], rows[heap, place] = values[heap, parent], rows[heap, parent]
            place = parent
        values[heap, place], rows[heap, place] = value, row
        return size + 1
    if value > values[heap, 0]:
        _replace_root(values, rows, heap, size, value, row)
    return size


@njit(nogil=True, cache=True)
def drain(values, rows, heap, size):
    """Turn a heap into a list, largest first."""
    for last in range(size - 1, 0, -1):
        value, row = values[heap, last], rows[heap, last]
        values[heap, last], rows[heap, last] = values[heap, 0], rows[heap, 0]
        _replace_root(values, rows, heap, last, value, row)


@njit(nogil=True, cache=True)
def _replace_root(values, rows, heap, size, value, row):
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and values[heap, child + 1] < values[heap, child]:
            child += 1
        if values[heap, child] >= value:
            break
        values[heap, place], rows[heap, place] = values[heap, child], rows[heap, child]
        place = child
    values[heap, place], rows[heap, place] = value, row
