"""The training objective: every entry of a history is predicted from the rest of it, all entries at once.

Inside its logarithm δ is a sum over the history, so one matrix of kernels K[h, v] = exp(e_h·e_v + β_v + α_h),
taken once per batch, holds everything: the score of a target is a sum of its user's entries in one column, and
the normaliser over all candidates is a sum of row sums. Leaving the target out of its own history is then a
subtraction.
"""

from dataclasses import dataclass

import torch

from engine.behavior_codes import BOTH, OTHER_ONLY
from engine.training.batches import Batch


@dataclass(slots=True)
class Parameters:
    """vectors f4[C, D]; biases f4[C, 2 + B] = (β, α, g_1..g_B); code_bias f4[3, B]; touched_bonus f4[]."""

    vectors: torch.Tensor
    biases: torch.Tensor
    code_bias: torch.Tensor
    touched_bonus: torch.Tensor


class KernelSums(torch.autograd.Function):
    """K = exp(left @ right.T) without each row's own column: its weighted row sums, and some of its entries.

    Written out because K is by far the largest array of a step: this way it is made once, passed over twice,
    and its gradient is the only other array of its size.
    """

    @staticmethod
    def forward(ctx, left, right, weights, own, rows, columns):  # type: ignore[no-untyped-def] # noqa: D102
        kernel = _product(left, right.T).exp_()
        kernel[torch.arange(len(own)), own] = 0.0
        ctx.save_for_backward(left, right, weights, rows, columns, kernel)
        return kernel @ weights, kernel[rows, columns]

    @staticmethod
    def backward(ctx, sums_gradient, entries_gradient):  # type: ignore[no-untyped-def] # noqa: D102
        left, right, weights, rows, columns, kernel = ctx.saved_tensors
        gradient = torch.outer(sums_gradient, weights)
        gradient[rows, columns] += entries_gradient
        gradient *= kernel
        return _product(gradient, right), _product(gradient.T, left), sums_gradient @ kernel, None, None, None


# Where the processor multiplies bfloat16 itself, a step takes a third of the time; the sums stay float32, and the
# metric's quality does not change (measured on two data sets).
_MULTIPLIES_BFLOAT16 = bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def _product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    if _MULTIPLIES_BFLOAT16:
        return (left.bfloat16() @ right.bfloat16()).float()
    return left @ right


def batch_loss(parameters: Parameters, batch: Batch, target: int, others_weight: float) -> torch.Tensor:
    """Mean over behaviours' entries of −log softmax of δ over all items the user could still be shown.

    The target behaviour counts 1, every other `others_weight`. Raises nothing; a non-finite result means that
    the parameters have run away.
    """
    histories = parameters.vectors.index_select(0, batch.place)
    lift = parameters.biases[:, 0].exp()
    row_sums, pair_kernels = KernelSums.apply(  # type: ignore[no-untyped-call]
        histories,
        parameters.vectors,
        batch.weights * lift,
        batch.place,
        batch.pair_history,
        batch.place[batch.pair_item],
    )
    pair_kernels = pair_kernels * lift[batch.place][batch.pair_item]
    total = parameters.vectors.new_zeros(())
    for behavior in range(batch.done.shape[1]):
        wanted = batch.done[:, behavior]
        losses = _leave_one_out(parameters, batch, row_sums, pair_kernels, behavior, behavior == target)
        weight = 1.0 if behavior == target else others_weight
        total = total + weight * (batch.importance * losses)[wanted].sum()
    return total / (batch.importance @ batch.done.float()).sum()


def _leave_one_out(
    parameters: Parameters,
    batch: Batch,
    row_sums: torch.Tensor,
    pair_kernels: torch.Tensor,
    behavior: int,
    is_target: bool,
) -> torch.Tensor:
    """f4[T]: −log of the share of each entry's exp(δ), the entry itself left out of the history."""
    history_weight = (parameters.biases[:, 1][batch.place] + parameters.code_bias[:, behavior][batch.code]).exp()
    prior = parameters.biases[:, 2 + behavior].exp()
    per_pair = history_weight[batch.pair_history] * pair_kernels
    score = prior[batch.place] + _sum_by(batch.pair_item, per_pair, len(batch.place))
    user_sums = _sum_by(batch.user, history_weight * row_sums, batch.users)
    # Before the target behaviour, an item that others were shown towards stood in the history already, by these.
    forgotten = history_weight
    if is_target:
        as_other = (parameters.biases[:, 1][batch.place] + parameters.code_bias[OTHER_ONLY, behavior]).exp()
        forgotten = history_weight - torch.where(batch.code == BOTH, as_other, torch.zeros_like(as_other))
    everything = user_sums[batch.user] - forgotten * row_sums + prior @ batch.weights

    # `everything` counts each item the user touched once; what the ranking leaves out counts 0, what it lifts exp(ρ).
    zero = torch.zeros_like(score)
    if is_target:
        bonus = parameters.touched_bonus.exp()
        excess = torch.where(batch.code == OTHER_ONLY, bonus, zero) - 1.0
        own_bonus = torch.where(batch.code == BOTH, parameters.touched_bonus, zero)
    else:
        excess = zero - 1.0
        own_bonus = zero
    corrections = _sum_by(batch.user, excess * score, batch.users)[batch.user] - excess * score
    corrections = corrections - forgotten * _sum_by(
        batch.pair_history, excess[batch.pair_item] * pair_kernels, len(batch.place)
    )
    own = own_bonus.exp() * score
    # Rounding can leave the difference of two large sums below what it must at least hold.
    normaliser = torch.maximum(everything + corrections + own - score, own)
    return normaliser.log() - own.log()


def _sum_by(groups: torch.Tensor, values: torch.Tensor, count: int) -> torch.Tensor:
    return values.new_zeros(count).index_add(0, groups, values)
