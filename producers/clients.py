"""Where clients of Kafka are made, whatever they are for."""

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from confluent_kafka import KafkaException

from producers.errors import InvalidOptions

Client = TypeVar("Client")

# Librdkafka writes to standard error, between our log's lines, what it also tells its client's callbacks.
_DEFAULTS: Mapping[str, object] = {"log_level": 0}


def make_client(kind: Callable[[dict[str, Any]], Client], settings: Mapping[str, object]) -> Client:
    """Make a `Producer`, a `Consumer` or an `AdminClient`; quiet, unless the settings have a `log_level`.

    Options that the kind has no use for are passed over, so that one set of them serves all clients. Raises
    `InvalidOptions` for those that librdkafka does not take, alone or together.
    """
    try:
        return kind({**_DEFAULTS, **settings})
    except KafkaException as error:
        raise InvalidOptions(error.args[0].str().strip()) from None
    except (TypeError, ValueError, AttributeError) as error:  # of an option that is not text, such as a callback
        raise InvalidOptions(str(error)) from None
