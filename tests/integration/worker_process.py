"""A worker as a process: `python -m tests.integration.worker_process ROLE KAFKA REDIS INDEX KAFKA_OPTIONS CONFIG`.

It prints `ready` before it begins, and ends on SIGTERM.
"""

import faulthandler
import json
import signal
import sys
from typing import Any

import torch

from consumers.behavior_updater import behavior_updater
from consumers.engine_thread import RequestWorkerConfig
from consumers.item_writer import item_writer
from consumers.request_worker import RequestWorker
from hopstream.generations import load_model
from index_store import IndexStore, connect
from tests.consumers.stage import PARAMS


def main(role: str, kafka: str, redis: str, index: str, options: str, config: str) -> None:
    """Run one worker."""
    torch.set_num_threads(1)
    server = connect(redis, writer=role != "requests")
    info = IndexStore(server, index).active()
    if info is None:
        raise SystemExit("no generation")
    settings = json.loads(options)
    worker: Any
    if role == "requests":
        worker = RequestWorker(
            kafka, server, info, load_model(info, server), RequestWorkerConfig(**json.loads(config)), settings
        )
    elif role == "items":
        worker = item_writer(kafka, server, info, load_model(info, server), PARAMS, settings)
    else:
        worker = behavior_updater(kafka, server, index, settings)
    faulthandler.register(signal.SIGUSR1)  # for whoever wonders where it hangs
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    print("ready", flush=True)  # noqa: T201
    worker.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
