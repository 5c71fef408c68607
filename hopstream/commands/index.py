"""`hopstream index`: generations of an index."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from hopstream.commands.arguments import AsJson
from hopstream.settings import Settings

app = typer.Typer(help="Generations of an index.", no_args_is_help=True)


@app.command("create")
def create(
    context: typer.Context,
    metric: Annotated[Path | None, typer.Option(help="Folder of a metric made by `hopstream train`.")] = None,
    dimensions: Annotated[int | None, typer.Option(min=1, help="Items bring vectors of this length instead.")] = None,
    by_path: Annotated[bool, typer.Option("--by-path", help="Workers read the metric from its folder.")] = False,
    if_none: Annotated[bool, typer.Option("--if-none", help="Do nothing where a generation is active.")] = False,
    wait: Annotated[float, typer.Option(min=0, max=3600, help="Seconds to wait for Redis.")] = 0.0,
) -> None:
    """Make an empty generation that answers from now on; its metric is put into Redis, where workers find it."""
    from hopstream.generations import create_learned, create_raw
    from index_store import IndexStore, connect

    settings: Settings = context.obj()
    if (metric is None) == (dimensions is None):
        raise typer.BadParameter("give either --metric or --dimensions")
    with connect(settings.redis.url, patience_s=wait) as server:
        store = IndexStore(server, settings.index.name)
        if if_none and (active := store.active()):
            typer.echo(f"generation {active.name} of index {active.index} is active: nothing to do")
            return
        links = settings.graph.degree, settings.graph.relevant
        if metric is not None:
            info = create_learned(store, metric, *links, by_path=by_path)
        else:
            info = create_raw(store, dimensions or 0, *links)
    source = f"{info.metric} at {info.artefact_uri}" if info.artefact_uri else info.metric
    typer.echo(f"generation {info.name} of index {info.index} ({source}) is active from now on")


@app.command("activate")
def activate(
    context: typer.Context, name: Annotated[str, typer.Argument(help="A generation that `index info` names.")]
) -> None:
    """Let another generation answer from now on, such as the one before; its workers bring it up to date."""
    from index_store import IndexStore, connect

    settings: Settings = context.obj()
    with connect(settings.redis.url) as server:
        IndexStore(server, settings.index.name).activate(name)
    typer.echo(f"generation {name} of index {settings.index.name} is active from now on")


@app.command("drop")
def drop(
    context: typer.Context,
    generation: Annotated[str | None, typer.Option(help="Only this one, which must not be active.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Delete everything that Redis holds of an index: generations, metrics, histories. Its topics stay.

    End its workers first. A new generation is then built from the beginning of the topics. With --generation nothing
    but that generation goes, and its metric; end only workers that still serve it.
    """
    from index_store import IndexStore, connect

    settings: Settings = context.obj()
    index = settings.index.name
    # An empty name, of a shell's unset variable, is no wish to delete everything.
    what = f"index {index}" if generation is None else f"generation {generation} of index {index}"
    if not yes:
        typer.confirm(f"Delete {what} from {settings.shown()['redis']['url']}?", abort=True, err=True)
    with connect(settings.redis.url) as server:
        store = IndexStore(server, index)
        if generation is None:
            typer.echo(f"{store.drop():,} keys of {what} deleted")
        else:
            store.drop_generation(generation)
            typer.echo(f"{what} deleted")


@app.command("info")
def info(context: typer.Context, as_json: AsJson = False) -> None:
    """Show what an index holds, and how far behind its topics it is."""
    from hopstream.inspection.display import show_summary
    from hopstream.inspection.summary import summarize

    summary = summarize(context.obj())
    if as_json:
        typer.echo(json.dumps(asdict(summary)))
    else:
        show_summary(summary)


@app.command("verify")
def verify(
    context: typer.Context,
    generation: Annotated[str | None, typer.Option(help="Another generation than the active one.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not encode every item again.")] = False,
    against_topic: Annotated[bool, typer.Option("--against-topic", help="Read the items topic and compare.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check an index against its log, its source records and its topic; it only reads. Exit code 1 if it is unsound."""
    from hopstream.inspection.display import Steps, show_report
    from hopstream.inspection.verification import verify

    report = verify(context.obj(), Steps(), generation=generation, quick=quick, against_topic=against_topic)
    if as_json:
        typer.echo(json.dumps(asdict(report)))
    else:
        show_report(report)
    if not report.sound:
        raise typer.Exit(1)
