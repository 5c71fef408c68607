import pytest
from confluent_kafka import KafkaError

from producers import Complaints, describe_error

AUTHENTICATION = KafkaError(KafkaError._AUTHENTICATION, "invalid password")
TLS = KafkaError(KafkaError._SSL, "handshake failed")
NAME = KafkaError(KafkaError._RESOLVE, "no such host")
DOWN = KafkaError(KafkaError._ALL_BROKERS_DOWN, "1/1 brokers are down")
LATE = KafkaError(KafkaError._TIMED_OUT, "too late")


@pytest.mark.parametrize(
    ("error", "setting"),
    [(AUTHENTICATION, "sasl.password"), (TLS, "ssl.*"), (NAME, "kafka.bootstrap_servers"), (DOWN, None)],
)
def test_an_error_points_to_its_setting(error: KafkaError, setting: str | None) -> None:
    """What librdkafka says is told, and where it is clear which setting is wrong, that is named."""
    told = describe_error(error)
    assert told.startswith(f"{error.name()}: {error.str()}")
    assert ("(check kafka.options" in told or "(check kafka.bootstrap" in told) == (setting is not None)
    assert setting is None or setting in told


@pytest.mark.parametrize("cause", [AUTHENTICATION, TLS, NAME])
def test_the_cause_is_kept_and_not_what_follows_from_it(cause: KafkaError) -> None:
    """A complaint about settings outlasts lost connections and time-outs, whichever came first."""
    complaints = Complaints()
    for error in (DOWN, cause, LATE, DOWN):
        complaints(error)
    assert str(complaints) == describe_error(cause)
    assert complaints.hopeless == (cause is AUTHENTICATION)
    complaints.settle()
    assert (str(complaints), complaints.hopeless) == ("", False)


def test_without_a_cause_the_last_complaint_is_told() -> None:
    """The newest of those that point nowhere."""
    complaints = Complaints()
    assert str(complaints) == ""
    for error in (DOWN, LATE):
        complaints(error)
    assert str(complaints) == describe_error(LATE)
