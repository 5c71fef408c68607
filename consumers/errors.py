"""Errors of the consumers.

ConsumerError
├── IntakeFailed      the Kafka client gave up; a worker ends with its offsets uncommitted
├── SchemaTooNew      a state topic holds a newer major schema: the partition waits for a newer hopstream
└── ModelMismatch     the store's generation and the metric at hand do not belong together
"""


class ConsumerError(Exception):
    """Anything that a consumer raises on purpose."""


class IntakeFailed(ConsumerError):
    """The Kafka client reported an error that reading on cannot mend."""


class SchemaTooNew(ConsumerError):
    """A record of a newer major schema on a state topic: skipping it would lose its offset for good."""


class ModelMismatch(ConsumerError):
    """The store's generation was made by another metric than the one at hand."""
