"""What librdkafka complains of on the side, and which setting that points to."""

from confluent_kafka import KafkaError

_SETTINGS = {
    KafkaError._AUTHENTICATION: "kafka.options, sasl.mechanism, sasl.username and sasl.password",
    KafkaError._SSL: "kafka.options, security.protocol and ssl.*",
    KafkaError._RESOLVE: "kafka.bootstrap_servers",
}


def describe_error(error: KafkaError) -> str:
    """An error's name, what it says, and which setting to look at where that is clear."""
    check = _SETTINGS.get(error.code())
    return f"{error.name()}: {error.str()}" + (f" (check {check})" if check else "")


class Complaints:
    """To be a client's `error_cb`: keeps the complaint that tells most.

    What points to a setting tells more than the time-outs and lost connections that follow from it. Callbacks come
    inside the client's `poll`, so somebody has to call that.
    """

    def __init__(self) -> None:
        self.last: KafkaError | None = None

    def __call__(self, error: KafkaError) -> None:
        """Hear a complaint."""
        if self.last is None or error.code() in _SETTINGS or self.last.code() not in _SETTINGS:
            self.last = error

    def settle(self) -> None:
        """Forget what was complained about: it has mended itself."""
        self.last = None

    @property
    def hopeless(self) -> bool:
        """Whether Kafka has refused the credentials, which waiting does not mend."""
        return self.last is not None and self.last.code() == KafkaError._AUTHENTICATION

    def __str__(self) -> str:
        return describe_error(self.last) if self.last else ""
