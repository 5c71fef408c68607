"""`hopstream train`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from hopstream.commands.arguments import AsJson, DataFolder


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
