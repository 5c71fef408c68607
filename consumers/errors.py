"""Errors of the consumers.

ConsumerError
└── IntakeFailed      the Kafka client gave up; a worker ends with its offsets uncommitted
"""


class ConsumerError(Exception):
    """Anything that a consumer raises on purpose."""


class IntakeFailed(ConsumerError):
    """The Kafka client reported an error that reading on cannot mend."""
