"""The command line."""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

import hopstream
from hopstream.commands import config, demo, index, load, recommend, serve, topics, train
from hopstream.commands.interruption import exit_code
from hopstream.errors import HopstreamError
from hopstream.settings import Settings

app = typer.Typer(
    name="hopstream", help="Recommendations over event streams.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip
for command in (demo.demo, train.train, serve.serve, recommend.recommend):
    app.command()(command)
for name, group in (("index", index.app), ("topics", topics.app), ("load", load.app), ("config", config.app)):
    app.add_typer(group, name=name)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hopstream {hopstream.__version__}")
        raise typer.Exit


@app.callback()
def common(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="Settings file, hopstream.toml by default.")] = None,
    index: Annotated[str | None, typer.Option(help="Name of the index.")] = None,
    kafka: Annotated[str | None, typer.Option(help="Kafka's bootstrap servers, host:port.")] = None,
    redis: Annotated[str | None, typer.Option(help="URL of the Redis server.")] = None,
    _: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Recommendations over event streams."""
    flags = {"index.name": index, "kafka.bootstrap_servers": kafka, "redis.url": redis}
    context.obj = lambda more=None: Settings.load(config, {**flags, **(more or {})})


def main() -> NoReturn:
    """Run a command. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 and 143 ended by Ctrl-C and SIGTERM."""
    try:
        app(standalone_mode=True)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if code := exit_code():
            # Whatever was being done when the signal came may have turned it into an error of its own.
            _fail("interrupted", code=code)
        if isinstance(error, SystemExit):
            raise
        if isinstance(error, KeyboardInterrupt):
            _fail("interrupted", code=130)
        if not isinstance(error, _expected_errors()):
            raise
        _fail(str(error))
    sys.exit(0)


def _expected_errors() -> tuple[type[Exception], ...]:
    """The roots of all rooms' error trees: what they say is meant for the user, a traceback is not."""
    from confluent_kafka import KafkaException

    from consumers.errors import ConsumerError
    from engine.errors import EngineError
    from index_store import StoreError
    from messages import MessageError
    from producers import ProducerError

    return HopstreamError, ConsumerError, EngineError, StoreError, MessageError, ProducerError, KafkaException


def _fail(problem: str, code: int = 1) -> NoReturn:
    Console(stderr=True, highlight=False, soft_wrap=True).print("[red]error:[/red]", escape(problem))
    sys.exit(code)
