"""`hopstream recommend`."""

import json
from typing import Annotated

import typer

from hopstream.commands.arguments import AsJson
from hopstream.errors import RequestRefused
from hopstream.settings import Settings


def recommend(
    context: typer.Context,
    user: Annotated[str, typer.Argument(help="The user to recommend for.")],
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="How many items.")] = 10,
    tag: Annotated[list[str] | None, typer.Option(help="Only items with this tag; again: with all of them.")] = None,
    any_tag: Annotated[
        list[str] | None, typer.Option(help="Only items with this tag; again: with any of them.")
    ] = None,
    min_number: Annotated[float | None, typer.Option(help="Only items with this number or a larger one.")] = None,
    max_number: Annotated[float | None, typer.Option(help="Only items with this number or a smaller one.")] = None,
    max_per_group: Annotated[int | None, typer.Option(min=1, max=1000, help="How many items of one group.")] = None,
    high: Annotated[bool, typer.Option("--high", help="Pass the ordinary requests that wait.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds to wait for the answer.")] = 10.0,
    as_json: AsJson = False,
) -> None:
    """Ask the workers for recommendations."""
    from hopstream.client import RecommendClient
    from messages import RecommendRequest, Status

    settings: Settings = context.obj()
    request = RecommendRequest(
        user=user,
        k=k,
        tags=tuple(tag or ()),
        any_tags=tuple(any_tag or ()),
        min_number=min_number,
        max_number=max_number,
        max_per_group=max_per_group,
    )
    kafka = settings.kafka
    with RecommendClient(
        kafka.bootstrap_servers,
        settings.index.name,
        client_id="command-line",
        options=kafka.options,
        patience_s=min(timeout, 10.0),
    ) as client:
        answer = client.recommend(request, timeout, high=high)
    if as_json:
        items = [{"id": scored.item, "score": scored.score} for scored in answer.items]
        told = {
            "items": items,
            "status": answer.status,
            "reason": answer.reason,
            "degraded": answer.degraded,
            "metric_version": answer.metric_version,
            "index_version": answer.index_version,
            "evaluations": answer.evaluations,
        }
        typer.echo(json.dumps(told))
    else:
        for scored in answer.items:
            typer.echo(f"{scored.score:10.4f}  {scored.item}")
    if answer.status is not Status.OK:
        raise RequestRefused(f"{answer.status}: {answer.reason}")
