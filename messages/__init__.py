"""What crosses Kafka: message types, their codec, headers and topic names. This room imports nothing of ours.

Bytes from a topic are untrusted. Whatever is wrong with them, and whatever is wrong with a message built in
Python, is one `MalformedMessage` that names the field; a body of a newer major schema is `UnsupportedSchema`.
"""

from messages.codec import (
    decode_behavior,
    decode_item,
    decode_recommendations,
    decode_request,
    encode,
)
from messages.errors import MalformedMessage, MessageError, UnsupportedSchema
from messages.headers import (
    DeadLetter,
    Headers,
    RequestHeaders,
    format_dead_letter,
    format_request,
    format_response,
    parse_correlation_id,
    parse_dead_letter,
    parse_request,
)
from messages.topic_policies import TopicPolicy, policies, reply_policy
from messages.topics import Topics
from messages.types import Behavior, HistoryEntry, Item, Recommendations, RecommendRequest, ScoredItem, Status

__all__ = [
    "Behavior",
    "DeadLetter",
    "Headers",
    "HistoryEntry",
    "Item",
    "MalformedMessage",
    "MessageError",
    "RecommendRequest",
    "Recommendations",
    "RequestHeaders",
    "ScoredItem",
    "Status",
    "TopicPolicy",
    "Topics",
    "UnsupportedSchema",
    "decode_behavior",
    "decode_item",
    "decode_recommendations",
    "decode_request",
    "encode",
    "format_dead_letter",
    "format_request",
    "format_response",
    "parse_correlation_id",
    "parse_dead_letter",
    "parse_request",
    "policies",
    "reply_policy",
]
