"""Workers made of settings, for one generation."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from consumers.behavior_updater import behavior_updater
from consumers.engine_thread import RequestWorkerConfig
from consumers.item_writer import item_writer
from consumers.questions import SearchDefaults
from consumers.request_worker import RequestWorker
from consumers.worker import Worker
from engine.graph import GraphParams
from hopstream.generations import load_model
from hopstream.serving.crew import Crew
from hopstream.settings import Settings
from index_store import GenerationInfo, Server, connect
from messages import Topics


@dataclass(frozen=True, slots=True)
class _Duty:
    """One kind of worker: the topic that it reads, and how it is made."""

    topic: Callable[[Topics], str]
    make: Callable[[Settings, Server, GenerationInfo], Worker]


def _requests(settings: Settings, server: Server, info: GenerationInfo) -> Worker:
    worker, kafka = settings.worker, settings.kafka
    config = RequestWorkerConfig(
        lanes=worker.lanes,
        device=worker.device,
        window=worker.window,
        default_timeout_ms=worker.default_timeout_ms,
        search=SearchDefaults(**settings.search.model_dump()),
    )
    model = load_model(info, server)
    return RequestWorker(kafka.bootstrap_servers, server, info, model, config, kafka.options)


def _items(settings: Settings, server: Server, info: GenerationInfo) -> Worker:
    graph, kafka = settings.graph, settings.kafka
    params = GraphParams(candidates=graph.candidates, alpha=graph.alpha)
    return item_writer(kafka.bootstrap_servers, server, info, load_model(info, server), params, kafka.options)


def _behaviors(settings: Settings, server: Server, info: GenerationInfo) -> Worker:
    kafka = settings.kafka
    return behavior_updater(kafka.bootstrap_servers, server, info.index, kafka.options)


_REQUESTS = _Duty(lambda topics: topics.requests, _requests)
_ITEMS = _Duty(lambda topics: topics.items, _items)
_BEHAVIORS = _Duty(lambda topics: topics.behaviors, _behaviors)
_ROLES: Mapping[str, Sequence[_Duty]] = {
    "requests": (_REQUESTS,),
    "updates": (_ITEMS, _BEHAVIORS),
    "all": (_REQUESTS, _ITEMS, _BEHAVIORS),
}


def topics_of(role: str, index: str) -> tuple[str, ...]:
    """The topics that the workers of a role read."""
    topics = Topics(index)
    return tuple(duty.topic(topics) for duty in _ROLES[role])


def make_crew(settings: Settings, role: str, info: GenerationInfo) -> Crew:
    """The workers of a role, ready to start. Raises `StoreError`, and `GenerationError` for a metric out of reach."""
    with ExitStack() as resources:
        workers = []
        for duty in _ROLES[role]:
            # As writers, those that only read as well: a worker has to know soon that the store is away, and every one
            # tries again by itself.
            server = resources.enter_context(connect(settings.redis.url, writer=True))
            workers.append(worker := duty.make(settings, server, info))
            resources.callback(worker.close)
        for worker in workers:
            worker.prepare()
        return Crew(info, workers, resources.pop_all())
