"""Where records go that nobody can read."""

from messages import DeadLetter, Headers, Topics, format_dead_letter
from producers.writer import OnDelivered, Writer


class DeadLetterProducer:
    """Writes unreadable records, as they were, to the dead-letter topic of where they came from."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer

    def bury(
        self,
        letter: DeadLetter,
        *,
        key: bytes | None,
        value: bytes | None,
        headers: Headers | None = None,
        on_delivered: OnDelivered | None = None,
    ) -> None:
        """Write the record's original key, value and headers, and where it came from and why.

        Its offset counts as done only when this is acknowledged: when `on_delivered` hears of no error or, without
        one, when this returns. Raises as `Writer.write` does and, without `on_delivered`, as `Writer.flush` does.
        """
        self.writer.write(
            Topics.dead_letters(letter.topic),
            key=key,
            value=value,
            headers=format_dead_letter(headers, letter),
            on_delivered=on_delivered,
        )
        if on_delivered is None:
            self.writer.flush()
