"""What the demo measured."""

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class DemoReport:
    """Figures of one run.

    catalogue, users, behaviours: how many there are. requests: sent; answered: with status ok and k items.
    hit_rate_at_10: share of the held-out (user, item) pairs that the answers hold, beside the two baselines on the same
    pairs. recall_at_10: share of the exhaustive top 10 under the same metric that the answers hold. catalogue_share:
    metric evaluations per request over items. Latencies are end to end, from produce to the answer at the client.
    The last two are None where a catalogue is too small to show them.
    """

    catalogue: int
    users: int
    behaviours: int
    requests: int
    answered: int
    hit_rate_at_10: float
    popularity_hit_rate_at_10: float
    knn_hit_rate_at_10: float
    recall_at_10: float
    catalogue_share: float
    queries_per_second: float
    p50_ms: float
    p99_ms: float
    item_freshness_ms: float | None
    history_effect_ms: float | None

    def to_json(self) -> str:
        """One object on one line."""
        return json.dumps({name: _rounded(value) for name, value in asdict(self).items()})


def _rounded(value: float | None) -> float | None:
    return round(value, 4) if isinstance(value, float) else value
