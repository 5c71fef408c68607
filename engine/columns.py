"""Reading and writing a few rows of columns from the host.

On a CPU not through torch: what it shares out over threads, however small, waits for them, and these then spin for
milliseconds and take a core from whoever works.
"""

import numpy as np
import torch


def read(column: torch.Tensor, *where: np.ndarray) -> np.ndarray:
    """``column[where]``, a copy on the host."""
    if column.device.type == "cpu":
        values: np.ndarray = column.numpy()[where]
        return values
    moved: np.ndarray = column[_on(column.device, where)].cpu().numpy()
    return moved


def write(column: torch.Tensor, where: np.ndarray, values: np.ndarray | float) -> None:
    """``column[where] = values``."""
    if column.device.type == "cpu":
        column.numpy()[where] = values
    else:
        column[_on(column.device, (where,))] = torch.as_tensor(values).to(column.device, column.dtype)


def _on(device: torch.device, where: tuple[np.ndarray, ...]) -> tuple[torch.Tensor, ...]:
    return tuple(torch.from_numpy(indices).to(device) for indices in where)
