import json
import socket
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from urllib.parse import urlsplit

import pytest

from hopstream.errors import SettingsError
from hopstream.serving import health as module
from hopstream.serving.health import Health, HealthEndpoint
from hopstream.settings import HttpSettings

ANY_PORT = HttpSettings()


class Patient:
    """Whose health the endpoint tells."""

    def __init__(self) -> None:
        self.health = Health()

    def __call__(self) -> Health:
        """Its health now."""
        return self.health


@pytest.fixture
def patient() -> Patient:
    """Somebody in good health."""
    return Patient()


@pytest.fixture
def url(patient: Patient) -> Iterator[str]:
    """Where to ask."""
    with HealthEndpoint(ANY_PORT, patient) as endpoint:
        yield endpoint.url


def ask(url: str, path: str, method: str = "GET") -> tuple[HTTPResponse, bytes]:
    """One request, and the body of its answer."""
    parts = urlsplit(url)
    connection = HTTPConnection(parts.hostname or "", parts.port, timeout=30)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        return response, response.read()
    finally:
        connection.close()


def test_readiness_names_what_is_waited_for(patient: Patient, url: str) -> None:
    """200 when nothing is, also with something to do without; 503 and all of the names otherwise."""
    patient.health = Health(without=("the store",), generation="g1")
    response, body = ask(url, "/readyz")
    assert (response.status, json.loads(body)["without"], json.loads(body)["generation"]) == (200, ["the store"], "g1")
    patient.health = Health(waiting_for=("Kafka: no topic t.items", "the store"))
    response, body = ask(url, "/readyz?verbose")
    assert response.status == 503
    assert json.loads(body)["waiting_for"] == ["Kafka: no topic t.items", "the store"]
    assert json.loads(body)["ready"] is False


def test_who_waits_is_alive_and_who_is_stuck_is_not(patient: Patient, url: str) -> None:
    """Liveness has nothing to do with readiness."""
    patient.health = Health(waiting_for=("Kafka",))
    assert ask(url, "/livez")[0].status == 200
    patient.health = Health(stuck=("engine",))
    response, body = ask(url, "/livez")
    assert (response.status, json.loads(body)) == (503, {"alive": False, "stuck": ["engine"]})


def test_metrics_are_in_prometheus_format(url: str) -> None:
    """All of ours are there from the beginning; none is labelled by who asked for what."""
    response, body = ask(url, "/metrics")
    assert response.status == 200
    assert str(response.headers["Content-Type"]).startswith("text/plain")
    lines = body.decode().splitlines()
    names = {line.rpartition(" ")[0] for line in lines}
    wanted = (
        'requests_total{priority="high",status="expired"}',
        'request_seconds_bucket{le="0.001",priority="normal"}',
    )
    assert {f"hopstream_{name}" for name in wanted} <= names
    assert not [line for line in lines if line.startswith("hopstream") and ("user=" in line or "item=" in line)]


def test_only_reading_is_allowed(url: str) -> None:
    """HEAD is GET without the body; there is nothing else to do and nothing else to see."""
    response, body = ask(url, "/readyz", "HEAD")
    assert (response.status, body) == (200, b"")
    assert int(response.headers["Content-Length"]) > 0
    assert ask(url, "/readyz", "POST")[0].status == 501
    assert ask(url, "/etc/passwd")[0].status == 404


def test_a_taken_port_is_named_with_its_setting_and_the_remedy() -> None:
    """Two workers with one port: the second one says which setting to change."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = HttpSettings(port=taken.getsockname()[1])
        with pytest.raises(SettingsError, match=r"^http\.port: 127\.0\.0\.1:\d+: Address already in use; .*0 for any"):
            HealthEndpoint(settings, Health)


def test_a_foreign_address_is_named_with_its_setting() -> None:
    """An address of another machine, and what is none at all."""
    for host in ("192.0.2.1", "no such host"):
        with pytest.raises(SettingsError, match=r"^http\.host: "):
            HealthEndpoint(HttpSettings(host=host), Health)


def test_who_only_holds_connections_is_cut_off(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Silent connections end by themselves, and make room for others."""
    monkeypatch.setattr(module._Handler, "timeout", 0.2)
    parts = urlsplit(url)
    silent = [socket.create_connection((parts.hostname, parts.port), timeout=30) for _ in range(module._AT_ONCE * 2)]
    for connection in silent:
        assert connection.recv(1) == b""
        connection.close()
    assert ask(url, "/livez")[0].status == 200
