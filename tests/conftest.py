"""What holds for all tests, and the servers of those that do not bring their own."""

import os
from collections.abc import Iterator

import pytest
import torch

from engine.kernels.byte_products import matrix_unit
from hopstream.errors import ServerNotFound
from tests.choice import Choice, choose_kafka, choose_redis
from tests.containers import docker_problem

# Two cores are shared by servers, workers and pytest itself; more threads only wait for each other.
torch.set_num_threads(1)

_KAFKA, _REDIS = pytest.StashKey[Choice](), pytest.StashKey[Choice]()
_NO_SKIPS = os.environ.get("HOPSTREAM_TEST_NO_SKIPS", "") not in {"", "0"}


def pytest_configure(config: pytest.Config) -> None:
    """Choose the servers, which start when the first test asks for them."""
    try:
        config.stash[_KAFKA], config.stash[_REDIS] = choose_kafka(), choose_redis()
    except (ValueError, ServerNotFound) as error:
        raise pytest.UsageError(str(error)) from None


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say which servers serve the integration and fault tests, and which hardware's paths are tested."""
    servers = {"kafka": config.stash[_KAFKA].what, "redis": config.stash[_REDIS].what}
    hardware = {
        "matrix unit": "tested" if matrix_unit() is not None else "not tested: no AMX here, or Linux does not lend it",
        "gpu": "tested" if torch.cuda.is_available() else "not tested: none here",
    }
    lines = {**servers, "docker": docker_problem() or "a daemon answers", **hardware}
    return [f"{name}: {what}" for name, what in lines.items()]


@pytest.fixture(scope="session", autouse=True)
def _hidden_choices() -> None:
    """Hide what chose the servers from the commands that tests start: those refuse settings that they do not know.

    Not while pytest is configured, since the processes that share a run's tests out are started later.
    """
    for name in [name for name in os.environ if name.startswith("HOPSTREAM_TEST_")]:
        del os.environ[name]


@pytest.fixture(scope="session")
def kafka(pytestconfig: pytest.Config) -> Iterator[str]:
    """The address of the chosen Kafka; the rooms' own tests use the embedded one instead."""
    with pytestconfig.stash[_KAFKA].open() as address:
        yield address


@pytest.fixture(scope="session")
def redis(pytestconfig: pytest.Config) -> Iterator[str]:
    """The URL of the chosen Redis; the rooms' own tests use a process of theirs instead."""
    with pytestconfig.stash[_REDIS].open() as url:
        yield url


@pytest.fixture(scope="session")
def real_kafka(pytestconfig: pytest.Config, request: pytest.FixtureRequest) -> str:
    """The address of the chosen Kafka, for what the embedded broker cannot do."""
    choice = pytestconfig.stash[_KAFKA]
    if not choice.real:
        pytest.skip(
            "the embedded broker can neither create, compact nor delete topics: "
            "set KAFKA_HOME or HOPSTREAM_TEST_KAFKA, or start Docker"
        )
    address: str = request.getfixturevalue("kafka")
    return address


@pytest.fixture(scope="session")
def docker() -> None:
    """Skip where containers cannot be run."""
    if problem := docker_problem():
        pytest.skip(f"runs containers, and {problem}: start Docker, or set DOCKER_HOST")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that skipped, where every server is meant to be there."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if _NO_SKIPS and reporter and reporter.stats.get("skipped") and session.exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the figures that tests recorded, and why a run without failures fails."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    if figures := [report for report in reports if report.when == "call" and report.user_properties]:
        terminalreporter.section("figures")
    for report in figures:
        values = ", ".join(f"{name} {value}" for name, value in report.user_properties)
        terminalreporter.write_line(f"{report.nodeid}: {values}")
    if _NO_SKIPS and terminalreporter.stats.get("skipped"):
        terminalreporter.write_line("HOPSTREAM_TEST_NO_SKIPS is set: skipped tests count as failures", red=True)
