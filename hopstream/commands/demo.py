"""`hopstream demo`."""

import signal
from pathlib import Path
from typing import Annotated

import typer

from hopstream.commands.arguments import AsJson
from hopstream.commands.interruption import unwind


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
        signal.signal(number, unwind)
    report = run_demo(DemoOptions(data, requests, train_seconds), Display(quiet=as_json))
    if as_json:
        typer.echo(report.to_json())
