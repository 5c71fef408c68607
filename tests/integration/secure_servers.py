"""Servers that let nobody in without TLS and a password: an Apache Kafka with SASL, a Redis with an ACL."""

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from hopstream.embedded import find_redis_server
from index_store import connect
from tests.brokers import free_ports, local_kafka
from tests.containers import REDIS_IMAGE, docker_problem, kafka_container, run_container
from tests.servers import redis_server

USER, PASSWORD, WRONG = "clerk", "right-pass-41", "wrong-pass-42"


def make_certificate(folder: Path) -> None:
    """Write a certificate of this machine, its own authority: `cert.pem`, `key.pem`, and both in `both.pem`."""
    request = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*request.split(), *files], check=True, capture_output=True)
    key, certificate = (folder / "key.pem").read_text(), (folder / "cert.pem").read_text()
    (folder / "both.pem").write_text(key + certificate)
    (folder / "key.pem").chmod(0o644)  # the container's user reads it


_WITHOUT_TLS = ("Failed finding TLS support", "Bad directive")
"""What a server that was built without TLS says of its options, newer ones and older ones."""


@contextmanager
def secure_kafka(certificates: Path) -> Iterator[str]:
    """Run Kafka with a listener that asks for TLS and `USER`'s password; yields its address.

    A Kafka that runs already gets no such listener: it is one of its own, of KAFKA_HOME or in a container.
    """
    home, problem = os.environ.get("KAFKA_HOME"), docker_problem()
    if not home and problem:
        pytest.skip(
            f"starts a Kafka with TLS of its own, and there is no KAFKA_HOME and {problem}: "
            "set KAFKA_HOME to a distribution, start Docker, or set DOCKER_HOST"
        )
    (port,) = free_ports(1)
    address = f"127.0.0.1:{port}"
    if home:
        with local_kafka(Path(home), _with_tls(address, address, certificates)):
            yield address
    else:
        with kafka_container(_with_tls("0.0.0.0:9094", address, certificates), {9094: port}, certificates):
            yield address


def _with_tls(listen: str, advertised: str, certificates: Path) -> Callable[[dict[str, str]], dict[str, str]]:
    """Adds the listener to a broker's settings."""
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"

    def change(settings: dict[str, str]) -> dict[str, str]:
        return {
            **settings,
            "listeners": f"{settings['listeners']},SASL_SSL://{listen}",
            "advertised.listeners": f"{settings['advertised.listeners']},SASL_SSL://{advertised}",
            "listener.security.protocol.map": f"{settings['listener.security.protocol.map']},SASL_SSL:SASL_SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(certificates / "both.pem"),
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{login} required user_{USER}="{PASSWORD}";',
        }

    return change


def kafka_settings(address: str, certificates: Path, password: str = PASSWORD) -> dict[str, str]:
    """Settings of hopstream, as environment variables."""
    options = "HOPSTREAM_KAFKA__OPTIONS__"
    return {
        "HOPSTREAM_KAFKA__BOOTSTRAP_SERVERS": address,
        f"{options}SECURITY__PROTOCOL": "SASL_SSL",
        f"{options}SSL__CA__LOCATION": str(certificates / "cert.pem"),
        f"{options}SASL__MECHANISM": "PLAIN",
        f"{options}SASL__USERNAME": USER,
        f"{options}SASL__PASSWORD": password,
    }


@contextmanager
def secure_redis(certificates: Path) -> Iterator[int]:
    """Run Redis that speaks TLS only and knows `USER` only; yields its port.

    Of this machine where that was built with TLS, as Debian's is and a wheel's is not, else in a container.
    """
    (port,) = free_ports(1)
    users = ["--user", "default", "off", "--user", USER, "on", f">{PASSWORD}", "~*", "&*", "+@all"]
    with ExitStack() as running:
        try:
            running.enter_context(redis_server(*_tls_options(port, certificates), *users))
        except RuntimeError as error:
            if not any(words in str(error) for words in _WITHOUT_TLS):
                raise
            if problem := docker_problem():
                pytest.skip(
                    f"{find_redis_server().path} was built without TLS, and {problem}: install Debian's redis-server, "
                    "start Docker, or set DOCKER_HOST"
                )
            command = ["redis-server", "--port", "0", "--save", "", *_tls_options(6379, Path("/tls")), *users]
            volumes = [(str(certificates), "/tls", "ro")]
            running.enter_context(run_container(REDIS_IMAGE, {6379: port}, command=command, volumes=volumes))
        connect(redis_settings(port, certificates)["HOPSTREAM_REDIS__URL"], patience_s=30).close()
        yield port


def _tls_options(port: int, certificates: Path) -> list[str]:
    """A server's: no client needs a certificate of its own."""
    certificate, key = str(certificates / "cert.pem"), str(certificates / "key.pem")
    files = ["--tls-cert-file", certificate, "--tls-key-file", key, "--tls-ca-cert-file", certificate]
    return ["--tls-port", str(port), "--tls-auth-clients", "no", *files]


def redis_settings(port: int, certificates: Path, password: str = PASSWORD) -> dict[str, str]:
    """Settings of hopstream, as environment variables."""
    url = f"rediss://{USER}:{password}@127.0.0.1:{port}/0?ssl_ca_certs={certificates / 'cert.pem'}"
    return {"HOPSTREAM_REDIS__URL": url}
