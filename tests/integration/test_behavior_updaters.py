from index_store import HistoryStore
from tests.consumers.stage import Stage, wait_until
from tests.integration.behavior_stream import BehaviorStream
from tests.integration.processes import worker_process


def test_behaviours_take_effect_once_across_a_kill(stage: Stage) -> None:
    """SIGKILL in the middle of a stream with erasures: in the end every history is what the stream says."""
    stream, histories = BehaviorStream(stage), HistoryStore(stage.server, stage.index)

    def position() -> int:
        found = histories.positions().get(0)
        return found.next_offset if found else 0

    with worker_process("behaviors", stage) as first:
        stream.send(50)
        wait_until(lambda: position() == 50, "the first records")
        stream.send(20_000)
        wait_until(lambda: position() > 50, "the stream to be under way")
        first.kill()
        first.wait()
    with worker_process("behaviors", stage):
        stream.send(50)
        wait_until(lambda: position() == stream.sent, "all records")
    assert histories.read(stream.expected) == stream.expected
