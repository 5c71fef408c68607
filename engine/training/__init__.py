"""Training of the multi-relational kernel metric from interactions: `train(interactions, config, progress)`."""

from engine.errors import TrainingError
from engine.training.data import Interactions
from engine.training.train import TrainingConfig, train

__all__ = ["Interactions", "TrainingConfig", "TrainingError", "train"]
