"""The script of the demo: what happens, in order."""

import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.markup import escape

from engine.artifact import MetricArtifact
from engine.model import learned_model
from engine.training import TrainingConfig, train
from hopstream.data import SAMPLE, Dataset, HeldOut, read_dataset
from hopstream.demo.display import Display
from hopstream.demo.live import NewBehavior, NewItem, new_item, watch_behavior, watch_new_item
from hopstream.demo.report import DemoReport
from hopstream.demo.scoring import (
    K,
    Reference,
    answered,
    answers_hit_rate,
    asked_pairs,
    baseline_hit_rates,
    excluded_behaviors,
    recall,
)
from hopstream.demo.stage import Stage, refuse_other_catalogue, stage
from hopstream.demo.traffic import Traffic, send_all
from hopstream.demo.venue import embedded_servers, temporary_index
from hopstream.errors import DemoError
from hopstream.loading import behaviors_of, items_of, load_behaviors, load_items, now_ms
from hopstream.settings import Settings
from hopstream.training import interactions_of
from messages import RecommendRequest
from producers import LoadReport

RECOGNISABLE = ("gimp", "jupyter-notebook", "docker.io", "audacity", "postgresql-15", "vlc")
SHOWN_BASKETS = 3
WARM_UP = 20
PATIENCE_S = 60.0
COMPARED = 400
"""Requests of which recall is measured: the first, and users are asked for in no telling order."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What to show, and where.

    data: a RecBole atomic folder, the sample where None. train_seconds: the most that training may take.
    servers: an index for the demo alone is made on these, and deleted afterwards; None for embedded ones.
    live: use the index of ``servers`` and the workers that serve it; what is loaded stays.
    """

    data: Path | None = None
    requests: int = 2_000
    train_seconds: float = 55.0
    servers: Settings | None = None
    live: bool = False


def run_demo(options: DemoOptions, display: Display) -> DemoReport:
    """Run everything and measure it. Raises `HopstreamError` when something does not work."""
    data = read_dataset(options.data or SAMPLE)
    pairs = asked_pairs(data, options.requests)
    if not len(pairs):
        raise DemoError(f"{data.name}: no held-out pairs to measure with; give more interactions per user")
    if options.live and options.servers is not None:
        refuse_other_catalogue(options.servers, data.items)
    _introduce(data, options, display)
    with tempfile.TemporaryDirectory(prefix="hopstream-demo-") as folder, _venue(options) as settings:
        artefact = Path(folder) / "metric"
        _train(data, artefact, options.train_seconds, display)
        with stage(settings, artefact, own_workers=not options.live) as on_stage:
            _load(on_stage, data, display)
            reference = Reference(on_stage, learned_model(MetricArtifact.load(artefact)))
            requests = [_request(data, user) for user in pairs.users]
            _warm_up(on_stage, requests, display)
            traffic = _ask(on_stage, requests, options.requests, display)
            # Before anything changes: the index that answered is the one to compare with.
            expected = _exhaustive(reference, requests[:COMPARED], display)
            _show_baskets(on_stage, data, display)
            item = watch_new_item(on_stage, reference, new_item(data, reference))
            behavior = watch_behavior(on_stage, reference, data, requests)
    report = _report(data, pairs, traffic, expected, item, behavior)
    display.quality(report)
    display.new_item(item)
    display.new_behavior(behavior)
    return report


def _venue(options: DemoOptions) -> AbstractContextManager[Settings]:
    if options.servers is None:
        return embedded_servers()
    return nullcontext(options.servers) if options.live else temporary_index(options.servers)


def _introduce(data: Dataset, options: DemoOptions, display: Display) -> None:
    display.say(f"[bold]hopstream demo[/bold]: {escape(_place(options))}")
    what = "Debian's packages and what each source package needs" if options.data is None else escape(str(options.data))
    display.say(
        f"{what}: {len(data.items):,} items, {len(data.users):,} users, {len(data.train):,} behaviours "
        f"({escape(', '.join(data.behaviors))}); {len(data.held_out()):,} pairs held out for measuring"
    )
    for note in data.notes:
        display.say(f"  {escape(note)}")
    display.say("")


def _place(options: DemoOptions) -> str:
    if options.servers is None:
        return "embedded Kafka and Redis, which keep nothing"
    kafka, index = options.servers.kafka.bootstrap_servers, options.servers.index.name
    if options.live:
        return f"index {index} on Kafka at {kafka}, through the workers that serve it; what is loaded stays"
    return f"an index of its own on Kafka at {kafka}, deleted afterwards"


def _train(data: Dataset, artefact: Path, seconds: float, display: Display) -> None:
    # More threads gain little in training and get in the way of servers and workers afterwards.
    torch.set_num_threads(1)
    with display.step(f"training a metric, {seconds:.0f} s at most", 1.0) as tick:
        metric = train(interactions_of(data), TrainingConfig(time_limit_s=seconds), lambda done, _loss: tick(done))
    metric.save(artefact)


def _load(on_stage: Stage, data: Dataset, display: Display) -> None:
    at = now_ms()
    writer = on_stage.writer
    with display.step("items through Kafka into the graph", len(data.items)) as tick:
        load_items(items_of(data, at), writer, on_stage.store, _applied(on_stage, tick))
    with display.step("behaviours through Kafka into histories", len(data.train)) as tick:
        load_behaviors(behaviors_of(data, at), writer, on_stage.server, on_stage.info.index, _applied(on_stage, tick))


def _applied(on_stage: Stage, tick: Callable[[float], None]) -> Callable[[LoadReport], None]:
    def progress(report: LoadReport) -> None:
        on_stage.check()
        tick(report.applied)

    return progress


def _request(data: Dataset, user: int) -> RecommendRequest:
    return RecommendRequest(user=data.users[user], k=K, exclude_behaviors=excluded_behaviors(data))


def _warm_up(on_stage: Stage, requests: Sequence[RecommendRequest], display: Display) -> None:
    """Wait for the first answer of this generation: a worker joins its group and loads its mirror meanwhile."""
    deadline = time.monotonic() + PATIENCE_S
    with display.step("waiting for the first answer", 1.0):
        version = None
        while version != on_stage.info.metric_version:
            if time.monotonic() > deadline:
                raise DemoError(f"no worker answers with generation {on_stage.info.name} of {on_stage.info.index}")
            first = on_stage.client.submit(requests[0], timeout_s=PATIENCE_S)
            while not first.done():
                on_stage.check()
                time.sleep(0.05)
            version = first.result().metric_version
        send_all(on_stage.client, requests[:WARM_UP], lambda _: None)


def _ask(on_stage: Stage, requests: Sequence[RecommendRequest], count: int, display: Display) -> Traffic:
    """As many requests as were asked for; where there are fewer users they ask again."""
    repeated = [requests[number % len(requests)] for number in range(count)]
    with display.step(f"{count:,} requests at once", count) as tick:
        return send_all(on_stage.client, repeated, tick)


def _show_baskets(on_stage: Stage, data: Dataset, display: Display) -> None:
    """Recommendations for users whom a reader recognises, or else for the first few."""
    codes = {user: code for code, user in enumerate(data.users)}
    texts = dict(zip(data.items, data.texts, strict=True))
    known = [user for user in RECOGNISABLE if user in codes]
    for user in list(dict.fromkeys([*known, *data.users]))[:SHOWN_BASKETS]:
        code = codes[user]
        has = sorted({data.items[item] for item in data.train.items[data.train.users == code]})
        shown = ", ".join(has[:8]) + (f" and {len(has) - 8} more" if len(has) > 8 else "")
        answer = on_stage.client.recommend(_request(data, code))
        display.basket(user, shown, [_described(scored.item, texts) for scored in answer.items])


def _described(item: str, texts: dict[str, str]) -> tuple[str, str]:
    return item, texts.get(item, "").removeprefix(item).strip()


def _exhaustive(reference: Reference, requests: Sequence[RecommendRequest], display: Display) -> list[list[str]]:
    with display.step("scoring every item, to compare with", len(requests)) as tick:
        expected: list[list[str]] = []
        for start in range(0, len(requests), 20):
            expected += reference.top(requests[start : start + 20])
            tick(len(expected))
    return expected


def _report(
    data: Dataset,
    pairs: HeldOut,
    traffic: Traffic,
    expected: Sequence[Sequence[str]],
    item: NewItem | None,
    behavior: NewBehavior | None,
) -> DemoReport:
    answers = traffic.answers
    popularity, neighbors = baseline_hit_rates(data, pairs)
    return DemoReport(
        catalogue=len(data.items),
        users=len(data.users),
        behaviours=len(data.train),
        requests=len(answers),
        answered=answered(answers),
        hit_rate_at_10=answers_hit_rate(data, pairs, answers),
        popularity_hit_rate_at_10=popularity,
        knn_hit_rate_at_10=neighbors,
        recall_at_10=recall(answers[: len(expected)], expected),
        catalogue_share=sum(answer.evaluations for answer in answers) / len(answers) / len(data.items),
        queries_per_second=traffic.queries_per_second,
        p50_ms=traffic.percentile_ms(50),
        p99_ms=traffic.percentile_ms(99),
        item_freshness_ms=item.milliseconds if item else None,
        history_effect_ms=behavior.milliseconds if behavior else None,
    )
