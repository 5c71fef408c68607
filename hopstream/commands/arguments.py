"""What several commands take."""

from pathlib import Path
from typing import Annotated

import typer

DataFolder = Annotated[Path, typer.Argument(help="A folder in RecBole's atomic format.", metavar="PATH")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on one line, nothing else.")]
