"""The messages themselves: frozen, checked when they are built, so that nothing ill-formed can be sent."""

from dataclasses import KW_ONLY, dataclass
from enum import StrEnum

from messages import rules
from messages.errors import MalformedMessage
from messages.rules import Vector


class Status(StrEnum):
    """How a request ended."""

    OK = "ok"
    REJECTED = "rejected"  # too much work waiting: come back after `retry_after_ms`
    EXPIRED = "expired"  # its time was up before it was answered
    MALFORMED = "malformed"
    UNSUPPORTED = "unsupported"  # of a newer major schema
    FAILED = "failed"


class _VectorMessage:
    """Equality of messages that hold an array, which has none of its own: vectors by their bytes."""

    __slots__: tuple[str, ...] = ()

    def _values(self) -> tuple[object, ...]:
        values = (getattr(self, name) for name in self.__slots__)
        return tuple(value.tobytes() if hasattr(value, "tobytes") else value for value in values)

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__ or not isinstance(other, _VectorMessage):
            return NotImplemented
        return self._values() == other._values()

    def __hash__(self) -> int:
        return hash(self._values())


def _normalize(message: object, **values: object) -> None:
    """Put the checked form of each field in its place."""
    for name, value in values.items():
        object.__setattr__(message, name, value)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One thing a user did; `behavior` None stands for the metric's target behaviour."""

    item: str
    behavior: str | None = None

    def __post_init__(self) -> None:
        rules.identifier("item", self.item)
        rules.optional(rules.identifier, "behavior", self.behavior)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class RecommendRequest(_VectorMessage):
    """Ask for `k` items.

    Exactly one of `user`, `history` (newest first), `item` and `vector` (f4[D]) says for whom, except that a
    user may bring a history, used when the store is away. `exclude` names items that must not come back;
    `exclude_behaviors` behaviours whose items in the user's history must not (None: the metric's target
    behaviour, empty: nothing is left out). An item must carry all `tags`, at least one of `any_tags` (empty:
    no matter) and a number from `min_number` to `max_number`, both included; no more than `max_per_group`
    items of one group come back. `beam`, `width` and `budget` (metric evaluations) override the worker's
    settings. Raises `MalformedMessage`.
    """

    k: int = 10
    user: str | None = None
    history: tuple[HistoryEntry, ...] = ()
    item: str | None = None
    vector: Vector | None = None
    exclude: tuple[str, ...] = ()
    exclude_behaviors: tuple[str, ...] | None = None
    tags: tuple[str, ...] = ()
    any_tags: tuple[str, ...] = ()
    min_number: float | None = None
    max_number: float | None = None
    max_per_group: int | None = None
    beam: int | None = None
    width: int | None = None
    budget: int | None = None

    def __post_init__(self) -> None:
        rules.integer("k", self.k, 1, rules.MAX_K)
        rules.optional(rules.identifier, "user", self.user)
        rules.optional(rules.identifier, "item", self.item)
        for name, high in (
            ("max_per_group", rules.MAX_K),
            ("beam", rules.MAX_BEAM),
            ("width", rules.MAX_WIDTH),
            ("budget", rules.MAX_COUNT),
        ):
            if (value := getattr(self, name)) is not None:
                rules.integer(name, value, 1, high)
        _normalize(
            self,
            history=rules.sequence(_HISTORY_ENTRY, "history", self.history, rules.MAX_HISTORY),
            vector=rules.optional(rules.vector, "vector", self.vector),
            exclude=rules.sequence(rules.identifier, "exclude", self.exclude, rules.MAX_EXCLUDE),
            exclude_behaviors=rules.optional(_behaviors, "exclude_behaviors", self.exclude_behaviors),
            tags=rules.sequence(rules.identifier, "tags", self.tags, rules.MAX_TAGS),
            any_tags=rules.sequence(rules.identifier, "any_tags", self.any_tags, rules.MAX_TAGS),
            min_number=rules.optional(rules.number, "min_number", self.min_number),
            max_number=rules.optional(rules.number, "max_number", self.max_number),
        )
        self._check_range()
        self._check_one_asker()

    def _check_range(self) -> None:
        if self.min_number is not None and self.max_number is not None and self.min_number > self.max_number:
            raise MalformedMessage("max_number", "less than min_number")

    def _check_one_asker(self) -> None:
        named = {
            "user": self.user is not None,
            "history": bool(self.history) and self.user is None,
            "item": self.item is not None,
            "vector": self.vector is not None,
        }
        askers = [name for name, given in named.items() if given]
        if not askers:
            raise MalformedMessage("", "names none of user, history, item and vector")
        if len(askers) > 1:
            raise MalformedMessage(askers[1], f"given beside {askers[0]}")


@dataclass(frozen=True, slots=True)
class ScoredItem:
    """One recommended item and its relevance: higher is better, finite."""

    item: str
    score: float

    def __post_init__(self) -> None:
        rules.identifier("item", self.item)
        score = rules.number("score", self.score)
        if score is not self.score:  # an answer holds a thousand, nearly always floats
            _normalize(self, score=score)


@dataclass(frozen=True, slots=True)
class Recommendations:
    """The answer to one request: items best first, and which metric and index made it.

    `evaluations` is what the search spent; `degraded` says that it was answered without the store;
    `retry_after_ms` comes with `rejected`. Raises `MalformedMessage`.
    """

    status: Status
    _: KW_ONLY
    items: tuple[ScoredItem, ...] = ()
    reason: str | None = None
    metric_version: str = ""
    index_version: str = ""
    evaluations: int = 0
    degraded: bool = False
    retry_after_ms: int | None = None

    def __post_init__(self) -> None:
        rules.optional(rules.text, "reason", self.reason)
        rules.text("metric_version", self.metric_version, rules.MAX_ID_BYTES)
        rules.text("index_version", self.index_version, rules.MAX_ID_BYTES)
        rules.integer("evaluations", self.evaluations, 0, rules.MAX_COUNT)
        rules.boolean("degraded", self.degraded)
        if self.retry_after_ms is not None:
            rules.integer("retry_after_ms", self.retry_after_ms, 0, rules.MAX_COUNT)
        _normalize(
            self,
            status=_status("status", self.status),
            items=rules.sequence(_SCORED_ITEM, "items", self.items, rules.MAX_K),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Item(_VectorMessage):
    """An item as its catalogue describes it; `vector` (f4[D]) where no encoder makes one of text and tags.

    `number` (a price, a time) and `group` (a brand, an author) are what requests can choose by besides tags; neither
    moves the item. Raises `MalformedMessage`.
    """

    id: str
    _: KW_ONLY
    text: str = ""
    tags: tuple[str, ...] = ()
    number: float | None = None
    group: str | None = None
    vector: Vector | None = None
    timestamp_ms: int

    def __post_init__(self) -> None:
        rules.identifier("id", self.id)
        rules.text("text", self.text)
        rules.optional(rules.identifier, "group", self.group)
        rules.integer("timestamp_ms", self.timestamp_ms, 0, rules.MAX_TIMESTAMP_MS)
        _normalize(
            self,
            number=rules.optional(rules.number, "number", self.number),
            tags=rules.sequence(rules.identifier, "tags", self.tags, rules.MAX_TAGS),
            vector=rules.optional(rules.vector, "vector", self.vector),
        )


@dataclass(frozen=True, slots=True)
class Behavior:
    """What a user did to an item, and when (epoch milliseconds, UTC)."""

    user: str
    item: str
    behavior: str
    timestamp_ms: int

    def __post_init__(self) -> None:
        rules.identifier("user", self.user)
        rules.identifier("item", self.item)
        rules.identifier("behavior", self.behavior)
        rules.integer("timestamp_ms", self.timestamp_ms, 0, rules.MAX_TIMESTAMP_MS)


Message = RecommendRequest | Recommendations | Item | Behavior

_HISTORY_ENTRY = rules.instance(HistoryEntry)
_SCORED_ITEM = rules.instance(ScoredItem)


def _behaviors(path: str, value: object) -> tuple[str, ...]:
    return rules.sequence(rules.identifier, path, value, rules.MAX_BEHAVIORS)


def _status(path: str, value: object) -> Status:
    try:
        return Status(rules.text(path, value, rules.MAX_ID_BYTES))
    except ValueError:
        raise MalformedMessage(path, f"not one of {', '.join(Status)}") from None
