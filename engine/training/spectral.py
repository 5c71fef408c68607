"""The start of training: leading directions of the user × item matrix.

From a random start the metric ends below plain item k-NN; from this one it starts close to it.
"""

import numpy as np
import numpy.typing as npt
import torch
from scipy import sparse

from engine.behavior_codes import TARGET_ONLY
from engine.training.data import Histories

OVERSAMPLING = 16


def spectral_vectors(
    histories: Histories,
    dimensions: int,
    *,
    norm: float,
    other_weight: float = 1.5,
    user_exponent: float = 0.35,
    item_exponent: float = 0.5,
    power_iterations: int = 2,
    seed: int,
) -> npt.NDArray[np.float32]:
    """V·√σ of D_u^-user_exponent · X · D_v^-item_exponent, each row scaled to `norm`; f4[N, dimensions].

    X holds `other_weight` where a user showed an item any behaviour but the target, 1 where only the target; D_u and
    D_v are its row and column sums.
    Rows of items that nobody touched are zero, and so are dimensions beyond the rank of the matrix.
    Randomised subspace iteration after Halko, Martinsson and Tropp (2011).
    """
    owners, items = histories.owners, histories.items
    touched = np.where(histories.codes == TARGET_ONLY, 1.0, other_weight)
    user_sums = np.bincount(owners, touched)
    item_sums = np.bincount(items, touched, minlength=histories.item_count)
    values = (touched * user_sums[owners] ** -user_exponent * item_sums[items] ** -item_exponent).astype(np.float32)
    matrix = sparse.csr_matrix((values, items, histories.offsets), shape=(len(histories), histories.item_count))
    generator = torch.Generator().manual_seed(seed)
    wanted = min(dimensions + OVERSAMPLING, *matrix.shape)
    basis = torch.randn(histories.item_count, wanted, generator=generator)
    for _ in range(power_iterations + 1):
        basis = torch.linalg.qr(_times(matrix.T, _times(matrix, basis)))[0]
    values_squared, turn = torch.linalg.eigh(_gram(_times(matrix, basis)))
    leading = torch.arange(wanted - 1, max(wanted - dimensions, 0) - 1, -1)
    sigma = values_squared[leading].clamp(min=0.0).sqrt()
    vectors = np.zeros((histories.item_count, dimensions), dtype=np.float32)
    vectors[:, : len(leading)] = ((basis @ turn[:, leading]) * sigma.sqrt()).numpy()
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors *= np.where(lengths > 1e-6, norm / np.maximum(lengths, 1e-6), 0.0)
    vectors[item_sums == 0] = 0.0
    return vectors


def _times(matrix: sparse.spmatrix, dense: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(matrix @ dense.numpy()))


def _gram(dense: torch.Tensor) -> torch.Tensor:
    return dense.T @ dense
