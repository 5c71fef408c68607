"""TLS and passwords of both servers pass through to every client; wrong ones are named and never shown."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.brokers import mock_kafka
from tests.consumers.stage import wait_until
from tests.hopstream.datasets import write_shop
from tests.integration.secure_servers import (
    PASSWORD,
    WRONG,
    kafka_settings,
    make_certificate,
    redis_settings,
    secure_kafka,
    secure_redis,
)
from tests.servers import redis_server

HOPSTREAM = [sys.executable, "-m", "hopstream"]


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a certificate of this machine."""
    folder = tmp_path_factory.mktemp("certificates")
    folder.chmod(0o755)
    make_certificate(folder)
    return folder


@pytest.fixture(scope="module")
def kafka(certificates: Path) -> Iterator[str]:
    """The address of a Kafka that wants TLS and a password."""
    with secure_kafka(certificates) as address:
        yield address


@pytest.fixture(scope="module")
def redis(certificates: Path) -> Iterator[int]:
    """The port of a Redis that wants TLS and a password."""
    with secure_redis(certificates) as port:
        yield port


def run(settings: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; no secret is in what it says."""
    environment = {**os.environ, "COLUMNS": "200", **settings}
    done = subprocess.run(
        [*HOPSTREAM, *arguments], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert_discreet(done.stdout + done.stderr)
    return done


@contextmanager
def serving(settings: Mapping[str, str], log: Path) -> Iterator[None]:
    """Run `hopstream serve all`; it ends by SIGTERM with exit code 0, and no secret is in its log."""
    with log.open("w") as out:
        worker = subprocess.Popen([*HOPSTREAM, "serve", "all"], stderr=out, env={**os.environ, **settings})
        try:
            yield
            worker.terminate()
            assert worker.wait(60) == 0, log.read_text()
        finally:
            worker.kill()
            worker.wait()
    assert_discreet(log.read_text())


def assert_discreet(said: str) -> None:
    """Neither of the passwords, and no traceback."""
    assert PASSWORD not in said
    assert WRONG not in said
    assert "Traceback" not in said, said


def assert_all_works(settings: Mapping[str, str], folder: Path) -> None:
    """Topics, a metric, items, behaviours and a request: each command does its part with these settings."""
    shop, metric = str(write_shop(folder / "shop", users=60, items_per_corner=20)), str(folder / "metric")
    for arguments in (
        ("topics", "create"), ("train", shop, "--out", metric), ("index", "create", "--metric", metric),
    ):  # fmt: skip
        done = run(settings, *arguments)
        assert done.returncode == 0, done.stderr
    with serving(settings, folder / "serve.log"):
        for arguments in (("load", "items", shop), ("load", "behaviors", shop)):
            done = run(settings, *arguments)
            assert done.returncode == 0, done.stderr + (folder / "serve.log").read_text()

        def recommended() -> bool:
            done = run(settings, "recommend", "u1", "--json")
            return done.returncode == 0 and len(json.loads(done.stdout)["items"]) == 10

        wait_until(recommended, "ten items")
        shown = run(settings, "config", "show")
        assert "***" in shown.stdout


def test_a_request_through_a_secured_kafka(kafka: str, certificates: Path, tmp_path: Path) -> None:
    """With TLS and SASL everything works as without."""
    with redis_server() as url:
        assert_all_works({**kafka_settings(kafka, certificates), "HOPSTREAM_REDIS__URL": url}, tmp_path)


def test_a_request_through_a_secured_redis(redis: int, certificates: Path, tmp_path: Path) -> None:
    """With TLS and a user of an ACL everything works as without."""
    with mock_kafka() as address:
        settings = {**redis_settings(redis, certificates), "HOPSTREAM_KAFKA__BOOTSTRAP_SERVERS": address}
        assert_all_works(settings, tmp_path)


@pytest.mark.parametrize("command", ["topics create", "recommend u1", "load items SHOP", "serve all"])
def test_a_password_that_kafka_refuses_is_named(kafka: str, certificates: Path, tmp_path: Path, command: str) -> None:
    """Each command ends with 1 within seconds and says which setting to look at."""
    arguments = command.replace("SHOP", str(write_shop(tmp_path / "shop"))).split()
    with redis_server() as url:
        settings = {**kafka_settings(kafka, certificates, WRONG), "HOPSTREAM_REDIS__URL": url}
        assert run(settings, "index", "create", "--dimensions", "8").returncode == 0
        done = run(settings, *arguments)
    assert done.returncode == 1
    assert "check kafka.options" in done.stderr
    assert "sasl.password" in done.stderr


def test_a_broker_that_cannot_be_verified_is_named(kafka: str, certificates: Path) -> None:
    """Without the authority's certificate no password is sent, and the error names where to put it."""
    settings = kafka_settings(kafka, certificates)
    del settings["HOPSTREAM_KAFKA__OPTIONS__SSL__CA__LOCATION"]
    done = run(settings, "topics", "create", "--wait", "1")
    assert done.returncode == 1
    assert "check kafka.options, security.protocol and ssl.*" in done.stderr


@pytest.mark.parametrize("command", ["index create --dimensions 8 --wait 600", "index info", "serve all"])
def test_a_password_that_redis_refuses_is_named(redis: int, certificates: Path, command: str) -> None:
    """Each command ends with 1 at once, however long it would wait for a server, and names the setting."""
    with mock_kafka() as address:
        settings = {**redis_settings(redis, certificates, WRONG), "HOPSTREAM_KAFKA__BOOTSTRAP_SERVERS": address}
        done = run(settings, *command.split())
    assert done.returncode == 1
    assert "redis.url" in done.stderr


def test_a_store_that_cannot_be_verified_is_named(redis: int, certificates: Path) -> None:
    """Without the authority's certificate the reason is told."""
    url = redis_settings(redis, certificates)["HOPSTREAM_REDIS__URL"].partition("?")[0]
    done = run({"HOPSTREAM_REDIS__URL": url}, "index", "info")
    assert done.returncode == 1
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr
    assert "ssl_ca_certs" in done.stderr
