"""What compiled code reads and writes of an index and of the running lanes: the same columns, as arrays."""

from typing import NamedTuple

import numpy as np


class ItemColumns(NamedTuple):
    """The columns of an `engine.index.ItemIndex` and of its `engine.sketch.Sketch`."""

    versions: np.ndarray
    groups: np.ndarray
    links: np.ndarray
    codes: np.ndarray
    interleaved: np.ndarray
    scales: np.ndarray


class LaneColumns(NamedTuple):
    """The columns of `engine.lanes.Lanes`."""

    walks: np.ndarray
    stages: np.ndarray
    given: np.ndarray
    offered: np.ndarray
    wanted: np.ndarray
    budgets: np.ndarray
    widths: np.ndarray
    clusters: np.ndarray
    per_group: np.ndarray
    evaluations: np.ndarray
    marks: np.ndarray
    floors: np.ndarray
    tangents: np.ndarray
    beam_sizes: np.ndarray
    beam_scores: np.ndarray
    beam_rows: np.ndarray
    unexpanded: np.ndarray
    slots: np.ndarray
    result_sizes: np.ndarray
    result_scores: np.ndarray
    result_rows: np.ndarray
    result_versions: np.ndarray
