"""Reading and writing columns from the host.

On a CPU not through torch: what it shares out over threads, however small, waits for them, and these then spin for
milliseconds and take a core from whoever works.
"""

from collections.abc import Sequence

import numpy as np
import torch


def read_each(column: torch.Tensor, several: Sequence[np.ndarray]) -> list[np.ndarray]:
    """``column[rows]`` for each of several rows int64[n], copies on the host: from a device all in one transfer."""
    if not several:
        return []
    if column.device.type == "cpu":
        on_host = column.numpy()
        return [on_host[rows] for rows in several]
    together = column[_on(column.device, np.concatenate(several))].cpu().numpy()
    return np.split(together, np.cumsum([len(rows) for rows in several])[:-1])


def fill(where: np.ndarray, *columns: tuple[torch.Tensor, float]) -> None:
    """``column[where] = value`` for each of several columns and where int64[n]."""
    places = None
    for column, value in columns:
        if column.device.type == "cpu":
            column.numpy()[where] = value
        else:
            places = _on(column.device, where) if places is None else places
            column.index_fill_(0, places, value)


def write(column: torch.Tensor | np.ndarray, where: np.ndarray | tuple[np.ndarray, ...], values: np.ndarray) -> None:
    """``column[where] = values``; where: int64[n], or one of these for each of the first dimensions."""
    if isinstance(column, np.ndarray) or column.device.type == "cpu":
        np.asarray(column)[where] = values
        return
    places = _on(column.device, np.stack(where if isinstance(where, tuple) else (where,)))
    column[tuple(places)] = torch.as_tensor(values, dtype=column.dtype).to(column.device, non_blocking=True)


def _on(device: torch.device, rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(rows).to(device, non_blocking=True)
