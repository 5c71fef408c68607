"""`hopstream index verify`, as an operator runs it."""

import json
from typing import Any

from tests.consumers.stage import Stage
from tests.integration.processes import hopstream


def verified(stage: Stage) -> dict[str, Any]:
    """What the command says of a sound index; fails for any other."""
    with hopstream(stage, "index", "verify", "--json") as process:
        process.wait(120)
        output = process.output
    assert process.returncode == 0, output
    report: dict[str, Any] = json.loads(output.splitlines()[-1])
    assert report["sound"], output
    return report
