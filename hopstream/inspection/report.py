"""What a verification finds."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

_EXAMPLES = 3


@dataclass(frozen=True, slots=True)
class Fault:
    """One kind of fault: how many there are, and the first of them."""

    kind: str
    count: int
    examples: tuple[str, ...]


Found = Iterable[tuple[str, str]]
"""(kind of fault, what it is about), one for every fault."""

Tick = Callable[[int], None]
"""Called with how much more of a step is done."""


class Findings:
    """Counts faults and keeps the first examples of every kind."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}

    def add(self, found: Found) -> None:
        """Take in faults."""
        for kind, example in found:
            self._counts[kind] = self._counts.get(kind, 0) + 1
            examples = self._examples.setdefault(kind, [])
            if len(examples) < _EXAMPLES:
                examples.append(example)

    def all(self) -> tuple[Fault, ...]:
        """Every kind that was found, in the order in which it was first."""
        return tuple(Fault(kind, count, tuple(self._examples[kind])) for kind, count in self._counts.items())


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `warnings` do not make an index unsound; `notes` say what could not be looked at."""

    sound: bool
    index: str
    generation: str
    items: int
    rows: int
    seq: int
    offset: int | None
    lag: int | None
    log_entries: int
    faults: tuple[Fault, ...]
    warnings: tuple[Fault, ...]
    notes: tuple[str, ...]
