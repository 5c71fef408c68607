"""`hopstream load`: a data set through Kafka."""

import typer

from hopstream.commands.arguments import DataFolder

app = typer.Typer(help="Send a data set's items or behaviours through Kafka.", no_args_is_help=True)


@app.command("items")
def items(context: typer.Context, data: DataFolder) -> None:
    """Send a data set's items; done when the item writer has applied them all."""
    from hopstream.bulk import send_items

    typer.echo(f"{send_items(context.obj(), data):,} items in the index")


@app.command("behaviors")
def behaviors(context: typer.Context, data: DataFolder) -> None:
    """Send a data set's training behaviours; done when they are all in the histories."""
    from hopstream.bulk import send_behaviors

    typer.echo(f"{send_behaviors(context.obj(), data):,} behaviours read into histories")
