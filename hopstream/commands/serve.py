"""`hopstream serve`."""

from enum import StrEnum
from typing import Annotated

import typer


class Role(StrEnum):
    """What `serve` serves."""

    REQUESTS = "requests"
    UPDATES = "updates"
    ALL = "all"


def serve(
    context: typer.Context,
    role: Annotated[Role, typer.Argument(help="Answer requests, apply updates, or both.")],
    until_stdin_closes: Annotated[
        bool,
        typer.Option("--until-stdin-closes", help="End when standard input closes: the supervisor may be killed."),
    ] = False,
) -> None:
    """Run workers until SIGTERM or Ctrl-C."""
    from hopstream import serving
    from hopstream.logs import configure_logging

    configure_logging()
    serving.serve(context.obj(), role, until_stdin_closes=until_stdin_closes)
