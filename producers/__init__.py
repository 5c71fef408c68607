"""Everything that writes to Kafka: requests, responses, items, behaviours, dead letters.

A `Writer` owns one connection; the producers beside it say what goes to which topic under which key. One writer
serves any number of them. `make_client` is where all of Kafka's clients come from, consumers too.
"""

from producers.clients import make_client
from producers.complaints import Complaints, describe_error
from producers.dead_letters import DeadLetterProducer
from producers.errors import (
    DeliveryFailed,
    InvalidOptions,
    LoadStalled,
    ProducerError,
    QueueFull,
    ReplyNotAllowed,
    TopicNotDeleted,
    TopicNotMade,
    TopicsUnavailable,
    Undelivered,
)
from producers.loader import LoadReport, load
from producers.records import BehaviorProducer, ItemProducer
from producers.requests import RequestProducer, ResponsePublisher
from producers.topic_admin import Deviation, TopicAdmin, TopicState, is_embedded
from producers.writer import Delivery, OnDelivered, Writer

__all__ = [
    "BehaviorProducer",
    "Complaints",
    "DeadLetterProducer",
    "Delivery",
    "DeliveryFailed",
    "Deviation",
    "InvalidOptions",
    "ItemProducer",
    "LoadReport",
    "LoadStalled",
    "OnDelivered",
    "ProducerError",
    "QueueFull",
    "ReplyNotAllowed",
    "RequestProducer",
    "ResponsePublisher",
    "TopicAdmin",
    "TopicNotDeleted",
    "TopicNotMade",
    "TopicState",
    "TopicsUnavailable",
    "Undelivered",
    "Writer",
    "describe_error",
    "is_embedded",
    "load",
    "make_client",
]
