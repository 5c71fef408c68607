import pytest

from messages import RecommendRequest, Status
from tests.consumers.stage import Mailbox, Stage, make_items, running, wait_until
from tests.containers import kafka_container, redis_container


@pytest.mark.usefixtures("docker")
def test_an_item_and_a_request_through_containers() -> None:
    """Kafka and Redis from their official images: an item event is applied, and a request answered with it."""
    items = make_items(2)
    with kafka_container() as kafka, redis_container() as redis:
        stage = Stage(kafka, redis)
        mailbox = Mailbox(stage)
        try:
            with running(stage.item_writer()), running(stage.request_worker()):
                stage.put(items)
                wait_until(lambda: stage.count() == 2, "the items")
                request = RecommendRequest(item="i0")
                wait_until(lambda: mailbox.ask(request).index_version == stage.mirror().version, "the worker's mirror")
                answer = mailbox.ask(request)
        finally:
            mailbox.close()
            stage.close()
    assert (answer.status, [scored.item for scored in answer.items]) == (Status.OK, ["i1"])
