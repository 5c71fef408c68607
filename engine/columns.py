"""Reading and writing columns from the host.

On a CPU not through torch: what it shares out over threads, however small, waits for them, and these then spin for
milliseconds and take a core from whoever works.
"""

from collections.abc import Sequence

import numpy as np
import torch


def moved(device: torch.device, *columns: np.ndarray) -> tuple[torch.Tensor, ...]:
    """The same columns, of one length, on the device as int64: one transfer, which nobody waits for."""
    return torch.from_numpy(np.stack(columns).astype(np.int64, copy=False)).to(device, non_blocking=True).unbind()


def back(*columns: torch.Tensor) -> tuple[np.ndarray, ...]:
    """The same columns on the host, in their own types; of one length, on a device one transfer as int64."""
    if columns[0].device.type == "cpu":
        return tuple(column.numpy() for column in columns)
    together = torch.stack([column.long() for column in columns]).cpu()
    return tuple(values.to(column.dtype).numpy() for values, column in zip(together, columns, strict=True))


def read(column: torch.Tensor, *where: np.ndarray) -> np.ndarray:
    """``column[where]``, a copy on the host."""
    on_host = column.device.type == "cpu"
    values: np.ndarray = column.numpy()[where] if on_host else column[_on(column.device, where)].cpu().numpy()
    return values


def read_each(column: torch.Tensor, several: Sequence[np.ndarray]) -> list[np.ndarray]:
    """``column[rows]`` for each of several rows int64[n], copies on the host: from a device all in one transfer."""
    if column.device.type == "cpu":
        on_host = column.numpy()
        return [on_host[rows] for rows in several]
    return np.split(read(column, np.concatenate(several)), np.cumsum([len(rows) for rows in several])[:-1])


def write(column: torch.Tensor, where: np.ndarray | tuple[np.ndarray, ...], values: np.ndarray | float) -> None:
    """``column[where] = values``."""
    if column.device.type == "cpu":
        column.numpy()[where] = values
    else:
        indices = where if isinstance(where, tuple) else (where,)
        column[_on(column.device, indices)] = torch.as_tensor(values).to(column.device, column.dtype, non_blocking=True)


def _on(device: torch.device, where: tuple[np.ndarray, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(indices).to(device, non_blocking=True) for indices in where)
