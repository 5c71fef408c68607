"""Adam over rows of a large table of which each step touches a few."""

import torch


class RowAdam:
    """Adam (Kingma and Ba, 2015) whose moments belong to rows; an untouched row does not move.

    Each row corrects its moments' start by its own count of steps, so that a rare item's first steps are as
    well scaled as a frequent one's.
    """

    def __init__(self, table: torch.Tensor, betas: tuple[float, float] = (0.9, 0.999), epsilon: float = 1e-8) -> None:
        self.table = table
        self._betas = betas
        self._epsilon = epsilon
        self._mean = torch.zeros_like(table)
        self._square = torch.zeros_like(table)
        self._steps = torch.zeros(len(table), 1)

    def step(self, rows: torch.Tensor, gradient: torch.Tensor, rate: float) -> None:
        """Move `rows` (distinct) by one step against `gradient`, f4[len(rows), …]."""
        first, second = self._betas
        steps = self._steps[rows] + 1.0
        mean = self._mean[rows].mul_(first).add_(gradient, alpha=1.0 - first)
        square = self._square[rows].mul_(second).addcmul_(gradient, gradient, value=1.0 - second)
        self._steps[rows], self._mean[rows], self._square[rows] = steps, mean, square
        scale = (square / (1.0 - second**steps)).sqrt_().add_(self._epsilon)
        self.table.index_add_(0, rows, mean.div_(1.0 - first**steps).div_(scale), alpha=-rate)
