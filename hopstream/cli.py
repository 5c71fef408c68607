"""The command line."""

import json
import signal
import sys
from enum import StrEnum
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

import hopstream
from hopstream.errors import HopstreamError
from hopstream.settings import Settings

# torch, Redis and Kafka clients are imported by the commands that need them: `--help` should not wait for them.

app = typer.Typer(
    name="hopstream", help="Recommendations over event streams.", no_args_is_help=True, add_completion=False,
    pretty_exceptions_enable=False,
)  # fmt: skip
index_app = typer.Typer(help="Generations of an index.", no_args_is_help=True)
load_app = typer.Typer(help="Send a data set's items or behaviours through Kafka.", no_args_is_help=True)
config_app = typer.Typer(help="What is set, and where from.", no_args_is_help=True)
app.add_typer(index_app, name="index")
app.add_typer(load_app, name="load")
app.add_typer(config_app, name="config")

DataFolder = Annotated[Path, typer.Argument(help="A folder in RecBole's atomic format.", metavar="PATH")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on one line, nothing else.")]


class Role(StrEnum):
    """What `serve` serves."""

    REQUESTS = "requests"
    UPDATES = "updates"
    ALL = "all"


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
    context.obj = lambda: Settings.load(
        config, {"index.name": index, "kafka.bootstrap_servers": kafka, "redis.url": redis}
    )


@app.command()
def demo(
    data: Annotated[Path | None, typer.Option(help="A RecBole atomic folder instead of the sample.")] = None,
    requests: Annotated[int, typer.Option(min=1, max=100_000, help="Requests to send.")] = 2_000,
    train_seconds: Annotated[float, typer.Option(min=5, max=3_600, help="The most that training may take.")] = 55.0,
    as_json: AsJson = False,
) -> None:
    """Show the whole engine at work on this machine: no server, no Docker, nothing kept."""
    from hopstream.demo import DemoOptions, run_demo
    from hopstream.demo.display import Display
    from hopstream.logs import configure_logging

    configure_logging("warning")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _unwind)
    report = run_demo(DemoOptions(data, requests, train_seconds), Display(quiet=as_json))
    if as_json:
        typer.echo(report.to_json())


@app.command()
def train(
    data: DataFolder,
    out: Annotated[Path, typer.Option(help="Folder to write the metric to.")],
    target: Annotated[str | None, typer.Option(help="The behaviour to recommend for.")] = None,
    seconds: Annotated[float | None, typer.Option(min=5, help="The most that training may take.")] = None,
    as_json: AsJson = False,
) -> None:
    """Learn a metric from behaviours."""
    from hopstream.training import train_metric

    result = train_metric(data, out, target=target, seconds=seconds, quiet=as_json)
    typer.echo(json.dumps(result) if as_json else f"metric {result['version']} written to {out}")


@app.command()
def serve(
    context: typer.Context,
    role: Annotated[Role, typer.Argument(help="Answer requests, apply updates, or both.")],
    until_stdin_closes: Annotated[
        bool, typer.Option(help="End when standard input closes, for a supervisor that may be killed.")
    ] = False,
) -> None:
    """Run workers until SIGTERM or Ctrl-C."""
    from hopstream import serve as serving
    from hopstream.logs import configure_logging

    configure_logging()
    serving.serve(context.obj(), role, until_stdin_closes=until_stdin_closes)


@index_app.command("create")
def index_create(
    context: typer.Context,
    metric: Annotated[Path | None, typer.Option(help="Folder of a metric made by `hopstream train`.")] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Items bring vectors of this length instead.")] = None,
) -> None:
    """Make an empty generation for the workers that start from now on."""
    from hopstream.generations import create_learned, create_raw
    from index_store import IndexStore, connect

    settings: Settings = context.obj()
    if (metric is None) == (dimensions is None):
        raise typer.BadParameter("give either --metric or --dimensions")
    with connect(settings.redis.url) as server:
        store = IndexStore(server, settings.index.name)
        degree = settings.graph.degree
        info = create_learned(store, metric, degree) if metric else create_raw(store, dimensions or 0, degree)
    typer.echo(f"generation {info.name} of index {info.index} ({info.metric}): workers that start from now on serve it")


@load_app.command("items")
def load_items(context: typer.Context, data: DataFolder) -> None:
    """Send a data set's items; done when the item writer has applied them all."""
    from hopstream.bulk import send_items

    typer.echo(f"{send_items(context.obj(), data):,} items in the index")


@load_app.command("behaviors")
def load_behaviors(context: typer.Context, data: DataFolder) -> None:
    """Send a data set's training behaviours; done when they are all in the histories."""
    from hopstream.bulk import send_behaviors

    typer.echo(f"{send_behaviors(context.obj(), data):,} behaviours read into histories")


@app.command()
def recommend(
    context: typer.Context,
    user: Annotated[str, typer.Argument(help="The user to recommend for.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many items.")] = 10,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds to wait for the answer.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Ask the workers for recommendations."""
    from hopstream.client import RecommendClient
    from messages import Status

    settings: Settings = context.obj()
    kafka = settings.kafka
    with RecommendClient(
        kafka.bootstrap_servers,
        settings.index.name,
        client_id="command-line",
        options=kafka.options,
        patience_s=min(timeout, 10.0),
    ) as client:
        answer = client.for_user(user, k, timeout)
    if as_json:
        items = [{"item": scored.item, "score": scored.score} for scored in answer.items]
        typer.echo(json.dumps({"status": answer.status, "reason": answer.reason, "items": items}))
    else:
        for scored in answer.items:
            typer.echo(f"{scored.score:10.4f}  {scored.item}")
    if answer.status is not Status.OK:
        _fail(f"{answer.status}: {answer.reason}")


@config_app.command("show")
def config_show(context: typer.Context, as_json: AsJson = False) -> None:
    """Print every setting as JSON, secrets masked."""
    settings: Settings = context.obj()
    typer.echo(json.dumps(settings.shown(), indent=None if as_json else 2))


def main() -> NoReturn:
    """Run a command. Exit codes: 0 done, 1 failed, 2 wrong usage, 130 and 143 ended by Ctrl-C and SIGTERM."""
    try:
        app(standalone_mode=True)
    except (Exception, KeyboardInterrupt, SystemExit) as error:
        if _ended_by:
            # Whatever was being done when the signal came may have turned it into an error of its own.
            _fail("interrupted", code=128 + _ended_by[0])
        if isinstance(error, SystemExit):
            raise
        if isinstance(error, KeyboardInterrupt):
            _fail("interrupted", code=130)
        if not isinstance(error, _expected_errors()):
            raise
        _fail(str(error))
    sys.exit(0)


_ended_by: list[int] = []


def _unwind(number: int, _frame: FrameType | None) -> None:
    """Let a signal end everything that was started, in order, as Ctrl-C does."""
    _ended_by.append(number)
    # Not KeyboardInterrupt: where it passes through an `exec`, Python later ends by the signal instead of the code.
    raise SystemExit(128 + number)


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
