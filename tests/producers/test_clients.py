import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from producers import Complaints, InvalidOptions, make_client
from tests.consumers.stage import wait_until


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"sasl.pasword": "x"}, "sasl.pasword"),
        ({"socket.timeout.ms": "soon"}, "socket.timeout.ms"),
        ({"stats_cb": "x"}, "stats_cb"),
        ({"throttle_cb": "x"}, "throttle_cb"),
        ({"default.topic.config": "x"}, ""),
    ],
)
def test_an_option_that_librdkafka_does_not_take_is_named(options: dict[str, str], named: str) -> None:
    """Mistyped, of a wrong value, or a callback that is none: one error for every kind of client."""
    for kind in (Producer, Consumer, AdminClient):
        with pytest.raises(InvalidOptions, match=rf"^kafka\.options: .*{named}"):
            make_client(kind, {"group.id": "g", **options})


def test_options_that_do_not_go_together_are_named() -> None:
    """The client whom they concern refuses them; the others have no use for them."""
    options = {"bootstrap.servers": "127.0.0.1:1", "group.protocol": "consumer", "session.timeout.ms": 6000}
    make_client(Producer, options)
    with pytest.raises(InvalidOptions, match=r"kafka\.options: .*`session.timeout.ms` is not supported"):
        make_client(Consumer, {"group.id": "g", **options})


@pytest.mark.parametrize("options", [{}, {"log_level": 4}])
def test_librdkafka_writes_nothing_by_itself_unless_told_to(
    options: dict[str, object], capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither of a broker that is not there nor of an option for other clients: `error_cb` hears what matters."""
    complaints = Complaints()
    settings = {"bootstrap.servers": "127.0.0.1:1", "group.protocol": "consumer", "error_cb": complaints, **options}
    client = make_client(AdminClient, settings)
    wait_until(lambda: client.poll(0.1) and complaints.last, "a complaint")
    written = capfd.readouterr().err
    assert ("|FAIL|" in written, "|CONFWARN|" in written) == (bool(options), bool(options)), written
