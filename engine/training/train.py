"""From interactions to a metric artefact: start, loop, content."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import torch

from engine.artifact import MetricArtifact
from engine.content import FEATURES, content_features, fit_content
from engine.errors import TrainingError
from engine.training.batches import Batch, make_batch, user_groups
from engine.training.data import Histories, Interactions
from engine.training.loss import Parameters, batch_loss
from engine.training.optimizer import RowAdam
from engine.training.spectral import spectral_vectors

Progress = Callable[[float, float], None]
"""Called after every step with the share of the training that is done, in [0, 1], and the step's loss."""

_CONTENT_SHARE = 0.15  # of a time limit, kept back for the content regression
# Every target of the training is part of the matrix that the vectors start from, so the kernel is surer of new items
# than they deserve: whoever collected much finds these behind them. So products are shrunk and ρ is raised when
# training is done. HR@10 on entries kept back: Tmall 0.139 -> 0.142, Debian 0.432 -> 0.435.
_SHRINK = 0.9
_BONUS_MARGIN = 0.75
_SMOOTHING = 0.3  # counts added to every item's own in the start of the popularity prior


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """How to train; the defaults are one recipe for all data sets.

    With `time_limit_s` (wall clock of `train` as a whole) the learning rates fall to 0 by the limit even if the
    epochs are not done; the result then depends on the machine's speed. Without it, the same seed, data and
    number of torch threads give the same metric. Raises TrainingError on a setting out of range.
    """

    dimensions: int = 256
    epochs: int = 2
    batch_users: int = 128
    batch_entries: int = 4096
    longest_history: int = 100
    negatives: int = 1000
    vector_rate: float = 0.003
    bias_rate: float = 0.01
    bonus_rate: float = 0.2
    others_weight: float = 0.5
    length_discount: float = 0.5
    start_norm: float = 10**0.5
    time_limit_s: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            at_least = {"epochs": 0, "seed": 0, "others_weight": 0, "negatives": 0, "length_discount": 0}.get(
                name, 1e-9
            )
            if value is not None and not value >= at_least:
                raise TrainingError(f"{name} is {value}, must be {'not negative' if not at_least else 'positive'}")


def train(
    interactions: Interactions, config: TrainingConfig | None = None, progress: Progress | None = None
) -> MetricArtifact:
    """Learn a metric. Uses as many threads as torch is set to.

    Raises TrainingError where the data does not allow training or the loss is no longer finite.
    """
    config = config or TrainingConfig()
    started = time.monotonic()
    histories = Histories.of(interactions)
    trainer = KernelTrainer(histories, config)
    deadline = None if config.time_limit_s is None else started + config.time_limit_s * (1.0 - _CONTENT_SHARE)
    steps = trainer.run(deadline, progress or (lambda _fraction, _loss: None))
    vectors, biases = trainer.vectors.numpy() * np.float32(_SHRINK**0.5), trainer.biases.numpy()
    texts = interactions.texts or [""] * histories.item_count
    tags = interactions.tags or [()] * histories.item_count
    touched = np.bincount(histories.items, minlength=histories.item_count)
    features = content_features(texts, tags, FEATURES if any(texts) or any(tags) else 1)
    placement = fit_content(features, vectors, biases, touched / (touched + 5.0))
    unseen = touched == 0
    if unseen.any():
        vectors[unseen], biases[unseen] = placement.place(features[unseen])
    return MetricArtifact(
        behaviors=tuple(interactions.behavior_names),
        target=interactions.target,
        item_ids=tuple(interactions.item_ids),
        vectors=vectors,
        biases=biases,
        code_bias=trainer.code_bias.detach().numpy(),
        touched_bonus=np.asarray(trainer.touched_bonus.item() + _BONUS_MARGIN, dtype=np.float32),
        content_weight=placement.weight,
        content_bias=placement.bias,
        content_norm=placement.norm,
        trained={
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - started, 1),
            "steps": steps,
            "users": len(histories),
            "items": int((touched > 0).sum()),
            "interactions": int(histories.done.sum()),
            "versions": {"torch": str(torch.__version__), "numpy": np.__version__},
            "settings": asdict(config),
        },
    )


class KernelTrainer:
    """The parameters of the kernel metric while they learn."""

    def __init__(self, histories: Histories, config: TrainingConfig) -> None:
        self._histories = histories
        self._config = config
        self._rng = np.random.default_rng(config.seed)
        behaviors = histories.done.shape[1]
        self.vectors = torch.from_numpy(
            spectral_vectors(histories, config.dimensions, norm=config.start_norm, seed=config.seed)
        )
        self.biases = torch.zeros(histories.item_count, 2 + behaviors)
        self.biases[:, 2:] = torch.from_numpy(_log_popularity(histories))
        self.code_bias = torch.zeros(3, behaviors, requires_grad=True)
        self.touched_bonus = torch.zeros((), requires_grad=True)
        self._vector_adam = RowAdam(self.vectors)
        self._bias_adam = RowAdam(self.biases)
        # ρ is one number that lies far from 0 where people buy what they collected: it must be let travel.
        self._scalars = torch.optim.Adam(
            [
                {"params": [self.code_bias], "rate": config.bias_rate},
                {"params": [self.touched_bonus], "rate": config.bonus_rate},
            ]
        )

    def run(self, deadline: float | None, progress: Progress) -> int:
        """Go over the users `epochs` times, or until `deadline` (time.monotonic()); returns the steps done."""
        config = self._config
        lengths = self._histories.lengths.clip(max=config.longest_history)
        groups = [
            group
            for _ in range(config.epochs)
            for group in user_groups(lengths, config.batch_users, config.batch_entries, self._rng)
        ]
        started = time.monotonic()
        for number, users in enumerate(groups):
            done = number / len(groups)
            if deadline is not None:
                done = max(done, (time.monotonic() - started) / max(deadline - started, 1e-9))
            if done >= 1.0:
                return number
            batch = make_batch(
                self._histories,
                users,
                longest=config.longest_history,
                negatives=config.negatives,
                length_discount=config.length_discount,
                rng=self._rng,
            )
            progress(done, self.step(batch, rate=1.0 - done))
        return len(groups)

    def step(self, batch: Batch, rate: float) -> float:
        """One step of Adam on one batch, at `rate` times the configured rates; returns the loss before it."""
        rows = batch.candidates
        vectors = self.vectors[rows].requires_grad_()
        biases = self.biases[rows].requires_grad_()
        loss = batch_loss(
            Parameters(vectors, biases, self.code_bias, self.touched_bonus),
            batch,
            self._histories.target,
            self._config.others_weight,
        )
        if not torch.isfinite(loss):
            raise TrainingError("the loss is no longer finite: lower vector_rate or start_norm")
        loss.backward()  # type: ignore[no-untyped-call]
        self._vector_adam.step(rows, _gradient(vectors), self._config.vector_rate * rate)
        self._bias_adam.step(rows, _gradient(biases), self._config.bias_rate * rate)
        for group in self._scalars.param_groups:
            group["lr"] = group["rate"] * rate
        self._scalars.step()
        self._scalars.zero_grad()
        return loss.item()


def _gradient(leaf: torch.Tensor) -> torch.Tensor:
    if leaf.grad is None:
        raise TrainingError("the loss does not depend on the parameters")
    return leaf.grad


def _log_popularity(histories: Histories) -> npt.NDArray[np.float32]:
    """f4[N, B]: the prior weighs as much as one history item that is as near to every item as to any other."""
    smoothed = histories.counts() + _SMOOTHING
    share = smoothed / smoothed.sum(axis=0)
    prior: npt.NDArray[np.float32] = np.log(share * histories.item_count).astype(np.float32)
    return prior
