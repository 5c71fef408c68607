"""What the workers of this process count and measure, for Prometheus.

One catalogue for all of them, in the client's default registry. Nothing here is labelled by user or item, and nothing
that is measured once per request costs more than a few microseconds.
"""

from prometheus_client import Counter, Gauge, Histogram, Info, disable_created_metrics

from messages import Status

disable_created_metrics()  # type: ignore[no-untyped-call]  # each would be a series of its own, and says little

_LATENCIES_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
_LAGS_S = (*_LATENCIES_S, 30.0, 60.0, 300.0, 1800.0)

# -- requests ----------------------------------------------------------------------------------------------------------

PRIORITIES = ("normal", "high")
REQUESTS = Counter(
    "hopstream_requests_total", "Answers that Kafka has acknowledged, by status.", ["priority", "status"]
)  # fmt: skip
DEGRADED = Counter("hopstream_degraded_answers_total", "Answers that had to do without the store.")
REQUEST_SECONDS = Histogram(
    "hopstream_request_seconds", "From a request's timestamp on the broker to its acknowledged answer.", ["priority"],
    buckets=_LATENCIES_S,
)  # fmt: skip
SEARCH_SECONDS = Histogram(
    "hopstream_search_seconds", "From the engine's taking a request to its answer, the wait for a lane included.",
    buckets=_LATENCIES_S,
)  # fmt: skip
EVALUATIONS = Counter("hopstream_evaluations_total", "Evaluations of the metric.")
STEPS = Counter("hopstream_steps_total", "Steps of the running batch.")
LANES_BUSY = Gauge("hopstream_lanes_busy", "Queries in the running batch.")
WAITING_EVALUATIONS = Gauge("hopstream_waiting_evaluations", "Estimated work of the queries that wait for a lane.")

# -- the mirror --------------------------------------------------------------------------------------------------------

MIRROR_ITEMS = Gauge("hopstream_mirror_items", "Items that can be recommended.")
MIRROR_ROWS = Gauge("hopstream_mirror_rows", "Rows of the mirror, freed ones included.")
MIRROR_SEQ = Gauge("hopstream_mirror_seq", "The last change of the index that the mirror has taken over.")
CHANGE_LAG_SECONDS = Histogram(
    "hopstream_change_lag_seconds", "From an item event's timestamp on the broker to its being in the mirror.",
    buckets=_LAGS_S,
)  # fmt: skip

# -- state topics ------------------------------------------------------------------------------------------------------

APPLIED = Counter("hopstream_records_applied_total", "Items and behaviours whose effect is stored.", ["topic"])
APPLY_SECONDS = Histogram(
    "hopstream_apply_seconds", "Applying one batch of records.", ["topic"], buckets=_LATENCIES_S
)  # fmt: skip
DEAD_LETTERS = Counter("hopstream_dead_letters_total", "Records that could not be read, by topic.", ["topic"])
PARTITIONS_HELD = Gauge("hopstream_partitions_held", "Partitions that Kafka has assigned to this process.", ["topic"])

# -- the process -------------------------------------------------------------------------------------------------------

STORE_AVAILABLE = Gauge("hopstream_store_available", "1 while the store answers, else 0.")
GENERATION = Info("hopstream_generation", "The generation that is served.")
BUILD = Info("hopstream_build", "The release that runs.")

for priority in PRIORITIES:  # a rate over a series that begins with its first event misses that event
    REQUEST_SECONDS.labels(priority)
    for status in Status:
        REQUESTS.labels(priority, status)
