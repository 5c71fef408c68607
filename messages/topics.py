"""Topic names of one index."""

import re
from dataclasses import dataclass

from messages.errors import MalformedMessage

_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")  # no dots: they separate the parts of a topic's name


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics of one index; raises `MalformedMessage` for a name that Kafka or a reader would not take."""

    index: str

    def __post_init__(self) -> None:
        _check_name("index", self.index)

    @property
    def requests(self) -> str:
        """Requests of ordinary priority."""
        return f"{self.index}.requests"

    @property
    def requests_high(self) -> str:
        """Requests that go first; a topic of their own, so that nothing ordinary stands before them."""
        return f"{self.index}.requests.high"

    @property
    def items(self) -> str:
        """Items; a record's partition is its shard."""
        return f"{self.index}.items"

    @property
    def behaviors(self) -> str:
        """What users did."""
        return f"{self.index}.behaviors"

    def replies(self, client: str) -> str:
        """Name the topic for answers to this client."""
        _check_name("client", client)
        return f"{self.index}.replies.{client}"

    def is_replies(self, topic: str) -> bool:
        """Say whether `topic` holds answers to some client of this index: the allow-list for `reply_to`."""
        prefix = f"{self.index}.replies."
        return topic.startswith(prefix) and _NAME.fullmatch(topic.removeprefix(prefix)) is not None

    def owns(self, topic: str) -> bool:
        """Say whether a topic has a name of this index."""
        return topic.startswith(f"{self.index}.")

    @staticmethod
    def dead_letters(topic: str) -> str:
        """Name the topic for records of `topic` that could not be read."""
        return f"{topic}.dlt"


def _check_name(path: str, name: object) -> None:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise MalformedMessage(path, "not a name of 1..100 letters, digits, hyphens and underscores")
