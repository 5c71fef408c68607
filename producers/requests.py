"""Requests on their way out and answers on their way back."""

from messages import (
    Recommendations,
    RecommendRequest,
    RequestHeaders,
    Topics,
    encode,
    format_request,
    format_response,
)
from producers.errors import ReplyNotAllowed
from producers.writer import OnDelivered, Writer


class RequestProducer:
    """Writes requests under the key of the user who asks."""

    def __init__(self, writer: Writer, topics: Topics) -> None:
        self.writer = writer
        self._topics = topics

    def send(
        self,
        request: RecommendRequest,
        headers: RequestHeaders,
        *,
        high: bool = False,
        on_delivered: OnDelivered | None = None,
    ) -> int:
        """Queue a request, `high` before ordinary ones; returns its bytes. Raises as `Writer.write` does."""
        return self.writer.write(
            self._topics.requests_high if high else self._topics.requests,
            key=headers.correlation_id if request.user is None else request.user,
            value=encode(request),
            headers=format_request(headers),
            on_delivered=on_delivered,
        )


class ResponsePublisher:
    """Writes answers to where their requests asked for, if that is a reply topic of this index."""

    def __init__(self, writer: Writer, topics: Topics) -> None:
        self.writer = writer
        self._topics = topics

    def publish(
        self,
        request_headers: RequestHeaders,
        recommendations: Recommendations,
        on_delivered: OnDelivered | None = None,
    ) -> int:
        """Queue the answer to the request with these headers; returns its bytes.

        The request is done when `on_delivered` hears of no error. Raises `ReplyNotAllowed`, and as `Writer.write`
        does.
        """
        if not self._topics.is_replies(request_headers.reply_to):
            raise ReplyNotAllowed(request_headers.reply_to)
        return self.writer.write(
            request_headers.reply_to,
            key=request_headers.correlation_id,
            value=encode(recommendations),
            headers=format_response(request_headers),
            partition=request_headers.reply_partition,
            on_delivered=on_delivered,
        )
