"""`hopstream topics`: the topics of an index."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from hopstream.commands.arguments import AsJson
from hopstream.errors import TopicsUnfit
from hopstream.settings import Settings

if TYPE_CHECKING:
    from producers import TopicState

app = typer.Typer(help="The topics of an index.", no_args_is_help=True)


@app.command("create")
def create(
    context: typer.Context,
    partitions: Annotated[int, typer.Option(min=1, max=10_000, help="Of requests and of behaviours, when made.")] = 4,
    replication_factor: Annotated[
        int | None, typer.Option(min=1, max=100, help="Copies of a topic, when made; the broker's default otherwise.")
    ] = None,
    wait: Annotated[float, typer.Option(min=0, max=3600, help="Seconds to wait for Kafka.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Make the topics that are missing; say where the others are not as they should be."""
    from messages import Topics, policies
    from messages.topic_policies import BROKER_DEFAULT
    from producers import TopicAdmin

    settings: Settings = context.obj()
    admin = TopicAdmin(settings.kafka.bootstrap_servers, settings.kafka.options, patience_s=wait)
    wanted = policies(Topics(settings.index.name), partitions=partitions)
    states = admin.create(wanted, replication_factor=replication_factor or BROKER_DEFAULT)
    if as_json:
        typer.echo(json.dumps({"topics": [asdict(state) for state in states]}))
    else:
        _print(states)
    if vital := [deviation for state in states for deviation in state.deviations if deviation.vital]:
        raise TopicsUnfit("\n".join(map(str, vital)))


def _print(states: Sequence["TopicState"]) -> None:
    for state in states:
        plural = "" if state.partitions == 1 else "s"
        typer.echo(f"{state.topic}: {'made' if state.made else 'there'}, {state.partitions} partition{plural}")
        if state.unchecked:
            typer.echo(f"  settings not compared: {state.unchecked}")
        for deviation in state.deviations:
            if not deviation.vital:
                typer.echo(f"  {deviation}")
