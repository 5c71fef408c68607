"""`hopstream index`: generations of an index."""

from pathlib import Path
from typing import Annotated

import typer

from hopstream.settings import Settings

app = typer.Typer(help="Generations of an index.", no_args_is_help=True)


@app.command("create")
def create(
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
