"""What this room raises.

ProducerError
├── InvalidOptions     librdkafka does not take the options of a client
├── QueueFull          the local queue stayed full for as long as the writer waits
├── DeliveryFailed     Kafka, or the time-out, said no to one record
├── Undelivered        records were still on their way when a flush ended
├── ReplyNotAllowed    a request asked for its answer on a topic that is not for answers
├── TopicsUnavailable  nobody tells which topics there are
├── TopicNotMade       a topic is missing, and Kafka does not let us make it
├── TopicNotDeleted    Kafka does not let us delete a topic
└── LoadStalled        nothing that was loaded is being applied any more
"""


class ProducerError(Exception):
    """Anything this room raises about Kafka."""


class InvalidOptions(ProducerError):
    """Librdkafka does not take the options of a client; `problem` is what it says, with the option's name."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem

    def __str__(self) -> str:
        return f"kafka.options: {self.problem}"


class QueueFull(ProducerError):
    """The local queue stayed full: Kafka takes records slower than they are made, or not at all."""

    def __init__(self, topic: str, waited_s: float) -> None:
        super().__init__(topic, waited_s)
        self.topic = topic
        self.waited_s = waited_s

    def __str__(self) -> str:
        return f"{self.topic}: the local queue was still full after {self.waited_s:g} s"


class DeliveryFailed(ProducerError):
    """One record was not written; `reason` is librdkafka's."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(topic, reason)
        self.topic = topic
        self.reason = reason

    @property
    def too_large(self) -> bool:
        """Whether a smaller record would have been written."""
        return self.reason.startswith("MSG_SIZE_TOO_LARGE")

    def __str__(self) -> str:
        return f"{self.topic}: not written: {self.reason}"


class Undelivered(ProducerError):
    """So many records had neither been written nor given up when the flush ended."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.count = count

    def __str__(self) -> str:
        return f"{self.count} records were still on their way"


class ReplyNotAllowed(ProducerError):
    """`reply_to` names no reply topic of this index, so nothing was written."""

    def __init__(self, reply_to: str) -> None:
        super().__init__(reply_to)
        self.reply_to = reply_to

    def __str__(self) -> str:
        return f"{self.reply_to}: not a topic for answers"


class TopicsUnavailable(ProducerError):
    """Kafka does not tell which topics there are: nobody answers, or it refuses the credentials."""


class TopicNotMade(ProducerError):
    """A topic is missing, and Kafka did not make it; `reason` is Kafka's."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(topic, reason)
        self.topic = topic
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.topic} does not exist and could not be made: {self.reason}"


class TopicNotDeleted(ProducerError):
    """Kafka did not delete a topic; `reason` is Kafka's."""

    def __init__(self, topic: str, reason: str) -> None:
        super().__init__(topic, reason)
        self.topic = topic
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.topic} could not be deleted: {self.reason}"


class LoadStalled(ProducerError):
    """A load that waited in vain; says for what."""
