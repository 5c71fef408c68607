"""The frozen reference metric in plain torch, on any device.

The layers and the users' columns are those of that module, as tensors.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.metric import with_intercepts

if TYPE_CHECKING:
    from benchmarks.reference_metric import Layers, ReferenceUsers


def fold_users(
    state: torch.Tensor, histories: np.ndarray, lanes: np.ndarray, layers: "Layers", users: "ReferenceUsers"
) -> None:
    """Write the users of histories int64[n, 20], −1 behind the last, into lanes int64[n] of the users' columns."""
    mine, rows = (torch.from_numpy(array).to(state.device) for array in (lanes, histories))
    known, length = rows >= 0, rows.shape[1]
    items = state[rows] * known[:, :, None]
    weights = layers.pooling[:length].expand(len(rows), -1).masked_fill(~known, -torch.inf).softmax(dim=1)
    user = (weights[:, :, None] * items).sum(dim=1) @ layers.user.T + layers.user_bias
    users.vectors[mine] = user
    users.hidden_bias[mine] = user @ layers.first_of_user.T + layers.first_bias
    users.keys_back[mine, :length] = items @ layers.attention_across
    users.values_back[mine, :length] = items @ layers.value_across
    users.history_bias[mine] = -torch.inf
    users.history_bias[mine, :length] = (
        layers.attention_bias[:length].expand(len(rows), -1).masked_fill(~known, -torch.inf)
    )


def score_pairs(
    state: torch.Tensor, rows: torch.Tensor, users: "ReferenceUsers", lanes: torch.Tensor, layers: "Layers",
    *, derive: bool,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """δ float32[n, p] of rows int64[n, p], −inf where there is none, and with ``derive`` tangents float32[n, p, 65]."""
    x = state[rows.clamp(min=0)]
    keys, values = users.keys_back[lanes], users.values_back[lanes]
    layer_back = layers.first_of_item + layers.first_of_product * users.vectors[lanes][:, None]
    hidden = torch.baddbmm(users.hidden_bias[lanes][:, None], x, layer_back.transpose(1, 2)).relu_()
    second = (hidden @ layers.second_across + layers.second_bias).relu_()
    attention = torch.baddbmm(users.history_bias[lanes][:, None], x, keys.transpose(1, 2)).softmax(dim=2)
    worth = torch.bmm(x, values.transpose(1, 2))
    attended = (attention * worth).sum(dim=2)
    scores = second @ layers.out + attended
    if not derive:
        return scores.masked_fill(rows < 0, -torch.inf), torch.empty(0, 0, 0, device=state.device)
    by_second = layers.out * (second > 0)
    by_hidden = (by_second @ layers.second) * (hidden > 0)
    gradients = torch.bmm(by_hidden, layer_back)
    gradients.baddbmm_(attention, values).baddbmm_(attention * (worth - attended[:, :, None]), keys)
    return scores.masked_fill(rows < 0, -torch.inf), with_intercepts(scores, gradients, x)
