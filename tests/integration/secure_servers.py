"""Servers that let nobody in without TLS and a password: an Apache Kafka with SASL, a Redis with an ACL."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from index_store import connect
from tests.brokers import free_ports, local_kafka
from tests.containers import REDIS_IMAGE, docker_problem, run_container

USER, PASSWORD, WRONG = "clerk", "right-pass-41", "wrong-pass-42"


def make_certificate(folder: Path) -> None:
    """Write a certificate of this machine, its own authority: `cert.pem`, `key.pem`, and both in `both.pem`."""
    request = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=x -addext subjectAltName=IP:127.0.0.1"
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run([*request.split(), *files], check=True, capture_output=True)
    key, certificate = (folder / "key.pem").read_text(), (folder / "cert.pem").read_text()
    (folder / "both.pem").write_text(key + certificate)
    (folder / "key.pem").chmod(0o644)  # the container's user reads it


@contextmanager
def secure_kafka(certificates: Path) -> Iterator[str]:
    """Run Kafka with a listener that asks for TLS and `USER`'s password; yields its address."""
    home = os.environ.get("KAFKA_HOME")
    if not home:
        pytest.skip(
            "a Kafka that runs already gets no TLS listener: set KAFKA_HOME to a distribution to start one with it"
        )
    (port,) = free_ports(1)
    login = "org.apache.kafka.common.security.plain.PlainLoginModule"
    secured = f"SASL_SSL://127.0.0.1:{port}"

    def secure(settings: dict[str, str]) -> dict[str, str]:
        return {
            **settings,
            "listeners": f"{settings['listeners']},{secured}",
            "advertised.listeners": f"{settings['advertised.listeners']},{secured}",
            "listener.security.protocol.map": f"{settings['listener.security.protocol.map']},SASL_SSL:SASL_SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(certificates / "both.pem"),
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f'{login} required user_{USER}="{PASSWORD}";',
        }

    with local_kafka(Path(home), secure):
        yield f"127.0.0.1:{port}"


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

    In a container: a server on PATH, or a wheel's, may have been built without TLS.
    """
    if problem := docker_problem():
        pytest.skip(f"only a container's Redis has TLS for certain, and {problem}: start Docker, or set DOCKER_HOST")
    (port,) = free_ports(1)
    command = [
        "redis-server", "--port", "0", "--tls-port", "6379", "--tls-auth-clients", "no", "--save", "",
        "--tls-cert-file", "/tls/cert.pem", "--tls-key-file", "/tls/key.pem", "--tls-ca-cert-file", "/tls/cert.pem",
        "--user", "default", "off", "--user", USER, "on", f">{PASSWORD}", "~*", "&*", "+@all",
    ]  # fmt: skip
    with run_container(REDIS_IMAGE, 6379, port, command=command, volumes=[(str(certificates), "/tls", "ro")]):
        connect(redis_settings(port, certificates)["HOPSTREAM_REDIS__URL"], patience_s=30).close()
        yield port


def redis_settings(port: int, certificates: Path, password: str = PASSWORD) -> dict[str, str]:
    """Settings of hopstream, as environment variables."""
    url = f"rediss://{USER}:{password}@127.0.0.1:{port}/0?ssl_ca_certs={certificates / 'cert.pem'}"
    return {"HOPSTREAM_REDIS__URL": url}
