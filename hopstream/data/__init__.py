"""Data sets: the sample catalogue and the readers of data sets in RecBole's format.

data = read_dataset(SAMPLE)
data.train.users, data.train.items    # codes; data.items[code] is the id
"""

from pathlib import Path

from hopstream.data.dataset import Dataset, HeldOut, Interactions
from hopstream.data.hold_out import hold_out
from hopstream.data.recbole import read_dataset

__all__ = ["SAMPLE", "Dataset", "HeldOut", "Interactions", "hold_out", "read_dataset"]

SAMPLE = Path(__file__).parent / "debian"
"""The folder of the sample catalogue; its README says what it is and where it comes from."""
