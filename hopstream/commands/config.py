"""`hopstream config`: what is set."""

import json

import typer

from hopstream.commands.arguments import AsJson
from hopstream.settings import Settings

app = typer.Typer(help="What is set, and where from.", no_args_is_help=True)


@app.command("show")
def show(context: typer.Context, as_json: AsJson = False) -> None:
    """Print every setting as JSON, secrets masked."""
    settings: Settings = context.obj()
    typer.echo(json.dumps(settings.shown(), indent=None if as_json else 2))
