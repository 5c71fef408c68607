"""`hopstream demo`."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from hopstream.commands.arguments import AsJson
from hopstream.commands.interruption import unwind


def demo(
    context: typer.Context,
    data: Annotated[Path | None, typer.Option(help="A RecBole atomic folder instead of the sample.")] = None,
    requests: Annotated[int, typer.Option(min=1, max=100_000, help="Requests to send.")] = 2_000,
    train_seconds: Annotated[float, typer.Option(min=5, max=3_600, help="The most that training may take.")] = 55.0,
    kafka: Annotated[str | None, typer.Option(help="A Kafka to use instead of the embedded one, host:port.")] = None,
    redis: Annotated[str | None, typer.Option(help="And a Redis, by its URL. What the demo makes there goes.")] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Use the index of the settings, through the workers that serve it; it stays.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the whole engine at work: on servers of its own that keep nothing, unless told otherwise."""
    before = context.parent.params if context.parent else {}
    kafka, redis = kafka or before.get("kafka"), redis or before.get("redis")
    if not live and (kafka is None) != (redis is None):
        raise typer.BadParameter("give both --kafka and --redis, or neither")
    from hopstream.demo import DemoOptions, run_demo
    from hopstream.demo.display import Display
    from hopstream.logs import configure_logging

    configure_logging("warning")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, unwind)
    servers = context.obj({"kafka.bootstrap_servers": kafka, "redis.url": redis}) if live or kafka else None
    options = DemoOptions(data, requests, train_seconds, servers, live)
    report = run_demo(options, Display(quiet=as_json))
    if as_json:
        typer.echo(report.to_json())
