"""`hopstream train`: from a data set's behaviours to a metric on disk."""

from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from engine.artifact import MetricArtifact
from engine.training import Interactions, TrainingConfig, train
from hopstream.data import Dataset, read_dataset
from hopstream.errors import DataError


def interactions_of(data: Dataset, target: str | None = None) -> Interactions:
    """A data set's training behaviours as training takes them; ``target`` is the behaviour to recommend for."""
    behaviors = data.train
    return Interactions(
        behaviors.users,
        behaviors.items,
        behaviors.behaviors,
        data.behaviors,
        target or data.target_behavior,
        data.items,
        data.texts,
        data.tags,
    )


def train_metric(path: Path, out: Path, *, target: str | None, seconds: float | None, quiet: bool) -> dict[str, object]:
    """Train and save; what was trained, as JSON-ready values. Progress goes to standard error, on a terminal only."""
    data = read_dataset(path)
    if target is not None and target not in data.behaviors:
        raise DataError(path, None, f"has no behaviour {target!r}, only {', '.join(data.behaviors)}: see --target")
    console = Console(stderr=True, quiet=quiet)
    for note in data.notes:
        console.print(note, markup=False)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(f"training on {len(data.train):,} behaviours", total=1.0)
        metric = train(
            interactions_of(data, target),
            TrainingConfig(time_limit_s=seconds),
            lambda done, _loss: progress.update(task, completed=done),
        )
    metric.save(out)
    return _summary(metric)


def _summary(metric: MetricArtifact) -> dict[str, object]:
    return {
        "version": metric.version,
        "sha256": metric.sha256,
        "dimensions": metric.dimensions,
        "behaviors": list(metric.behaviors),
        "target": metric.target,
        "items": len(metric.item_ids),
        "trained": dict(metric.trained),
    }
