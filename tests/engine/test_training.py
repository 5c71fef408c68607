import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.artifact import MetricArtifact
from engine.behavior_codes import BOTH, OTHER_ONLY, TARGET_ONLY
from engine.mlp_metric import MlpMetric
from engine.query import Query
from engine.training import Interactions, TrainingConfig, TrainingError, train
from engine.training.batches import make_batch, user_groups
from engine.training.data import Histories
from engine.training.loss import KernelSums, Parameters, batch_loss
from engine.training.optimizer import RowAdam
from engine.training.spectral import spectral_vectors
from tests.engine.indexes import scores_of

GROUPS, GROUP_SIZE = 8, 10
SCATTER, GATHER = 27, 3  # inverse to each other modulo 80: neighbouring codes say nothing about groups
QUICK = TrainingConfig(dimensions=16, epochs=3, batch_users=32, negatives=20)


def communities(users: int = 400, seed: int = 0) -> tuple[Interactions, np.ndarray, np.ndarray]:
    """Users who keep to one group of items; with a held-out item each. Views everywhere, buys half the time."""
    rng = np.random.default_rng(seed)
    group = rng.integers(0, GROUPS, users)
    touched = np.stack([rng.choice(GROUP_SIZE, 5, replace=False) for _ in range(users)])
    items = (group[:, None] * GROUP_SIZE + touched) * SCATTER % (GROUPS * GROUP_SIZE)
    codes = np.repeat(np.arange(users), 4)
    views = Interactions(
        users=codes,
        items=items[:, :4].ravel(),
        behaviors=rng.integers(0, 2, 4 * users),
        behavior_names=("view", "buy"),
        target="buy",
        item_ids=[f"i{number}" for number in range(GROUPS * GROUP_SIZE)],
    )
    return views, items[:, :4], items[:, 4]


def ranks(artifact: MetricArtifact, histories: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Rank of each user's wanted item among all items not in the history, by the kernel without codes."""
    kernel = np.exp(artifact.vectors[histories] @ artifact.vectors.T + artifact.biases[histories, 1, None])
    scores = kernel.sum(axis=1) * np.exp(artifact.biases[:, 0])
    scores += np.exp(artifact.biases[:, 2 + artifact.target_code])
    np.put_along_axis(scores, histories, -1.0, axis=1)
    return (scores > np.take_along_axis(scores, wanted[:, None], axis=1)).sum(axis=1)


def test_learns_what_goes_together() -> None:
    """Where users keep to groups, a held-out item of the group ranks far above where popularity puts it."""
    interactions, histories, wanted = communities()
    artifact = train(interactions, QUICK)
    popularity = np.bincount(interactions.items, minlength=GROUPS * GROUP_SIZE)
    by_popularity = (popularity > popularity[wanted][:, None]).sum(axis=1)
    assert (ranks(artifact, histories, wanted) < GROUP_SIZE).mean() > 0.95
    assert (by_popularity < GROUP_SIZE).mean() < 0.3


def test_loss_falls_and_progress_is_told() -> None:
    """Progress is called once per step with rising shares in [0, 1] and losses that fall."""
    told: list[tuple[float, float]] = []
    config = dataclasses.replace(QUICK, start_norm=0.1, epochs=6)  # next to nothing from the spectral start
    artifact = train(communities()[0], config, lambda share, loss: told.append((share, loss)))
    shares, losses = zip(*told, strict=True)
    assert list(shares) == sorted(shares)
    assert shares[0] == 0.0
    assert shares[-1] < 1.0
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1
    assert artifact.trained["steps"] == len(told)


def test_same_seed_same_metric() -> None:
    """With the same data, seed and threads the artefact is the same to the bit; another seed gives another."""
    interactions = communities(100)[0]
    config = dataclasses.replace(QUICK, epochs=1)
    assert train(interactions, config).version == train(interactions, config).version
    assert train(interactions, dataclasses.replace(config, seed=1)).version != train(interactions, config).version


def test_time_limit_holds() -> None:
    """Epochs that would take hours are cut short, with a learned metric. How soon is for a benchmark to say."""
    interactions, histories, wanted = communities()
    artifact = train(interactions, dataclasses.replace(QUICK, epochs=10_000, time_limit_s=1.5))
    assert artifact.trained["steps"] < 10_000
    assert (ranks(artifact, histories, wanted) < GROUP_SIZE).mean() > 0.9


def test_prior_ranks_by_popularity() -> None:
    """For a user without history δ is g, and g follows how often an item was bought."""
    rng = np.random.default_rng(0)
    weight = 1.0 / np.arange(1, 41)
    items = np.concatenate([rng.choice(40, 5, replace=False, p=weight / weight.sum()) for _ in range(500)])
    interactions = Interactions(
        np.repeat(np.arange(500), 5), items, np.zeros(2500, int), ("buy",), "buy", [str(row) for row in range(40)]
    )
    prior = train(interactions, QUICK).biases[:, 2]
    popular = np.argsort(-np.bincount(items, minlength=40))[:8]
    assert len(set(popular) & set(np.argsort(-prior)[:10])) >= 7


def test_untouched_item_is_placed_by_its_words() -> None:
    """An item without interactions but with a group's words lies among that group's items."""
    interactions = communities()[0]
    group_of = np.arange(GROUPS * GROUP_SIZE) * GATHER % (GROUPS * GROUP_SIZE) // GROUP_SIZE
    texts = [f"theme{group} edition{row}" for row, group in enumerate(group_of)]
    grown = dataclasses.replace(interactions, item_ids=[*interactions.item_ids, "new"], texts=[*texts, "theme5"])
    vectors = train(grown, QUICK).vectors
    nearest = np.argsort(-(vectors[:-1] @ vectors[-1]))[:GROUP_SIZE]
    assert (group_of[nearest] == 5).all()


def naive_loss(parameters: Parameters, histories: Histories, users: list[int], others_weight: float) -> float:
    """The objective as it is defined: one softmax over the whole catalogue per left-out entry."""
    vectors, biases = parameters.vectors.detach().numpy(), parameters.biases.detach().numpy()
    code_bias, bonus = parameters.code_bias.detach().numpy(), float(parameters.touched_bonus)
    total = weights = 0.0
    for user in users:
        entries = range(histories.offsets[user], histories.offsets[user + 1])
        importance = len(entries) ** -0.5
        for left_out, behavior in itertools.product(entries, range(histories.done.shape[1])):
            if not histories.done[left_out, behavior]:
                continue
            is_target = behavior == histories.target
            delta = np.full(histories.item_count, -np.inf)
            for item in range(histories.item_count):
                own = [entry for entry in entries if histories.items[entry] == item]
                touched = bool(own) and histories.codes[own[0]] != TARGET_ONLY
                if own and own[0] != left_out and not (is_target and histories.codes[own[0]] == OTHER_ONLY):
                    continue
                if own == [left_out]:
                    touched = histories.codes[left_out] == BOTH
                codes = {entry: histories.codes[entry] for entry in entries if entry != left_out}
                if is_target and histories.codes[left_out] == BOTH:
                    codes[left_out] = OTHER_ONLY
                kernels = [
                    vectors[histories.items[entry]] @ vectors[item]
                    + biases[item, 0]
                    + biases[histories.items[entry], 1]
                    + code_bias[code, behavior]
                    for entry, code in codes.items()
                    if histories.items[entry] != item
                ]
                delta[item] = np.logaddexp.reduce([*kernels, biases[item, 2 + behavior]])
                delta[item] += bonus * (touched and is_target)
            loss = np.logaddexp.reduce(delta) - delta[histories.items[left_out]]
            total += importance * (1.0 if is_target else others_weight) * loss
            weights += importance
    return total / weights


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), behaviors=st.integers(1, 3), target=st.integers(0, 2))
def test_loss_is_the_definition(seed: int, behaviors: int, target: int) -> None:
    """With every item a candidate, row sums and corrections give what the plain definition gives."""
    rng = np.random.default_rng(seed)
    names = [f"b{number}" for number in range(behaviors)]
    histories = Histories.of(
        Interactions(
            rng.integers(0, 4, 25),
            rng.integers(0, 9, 25),
            rng.integers(0, behaviors, 25),
            names,
            names[target % behaviors],
            [str(row) for row in range(9)],
        )
    )
    users = np.arange(len(histories))
    batch = make_batch(histories, users, longest=50, negatives=9, length_discount=0.5, rng=rng)
    assert len(batch.candidates) == 9
    torch.manual_seed(seed)
    whole = Parameters(torch.randn(9, 4), torch.randn(9, 2 + behaviors), torch.randn(3, behaviors), torch.tensor(0.7))
    local = dataclasses.replace(whole, vectors=whole.vectors[batch.candidates], biases=whole.biases[batch.candidates])
    loss = batch_loss(local, batch, histories.target, 0.5)
    expected = naive_loss(whole, histories, users.tolist(), 0.5)
    assert float(loss) == pytest.approx(expected, rel=2e-2, abs=1e-2)  # bfloat16 products where there are any


@pytest.mark.parametrize("code", [OTHER_ONLY, TARGET_ONLY, BOTH])
def test_serving_scores_what_training_learned(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss of one left-out entry is −log softmax of the δ that the served metric gives its user without it."""
    monkeypatch.setattr("engine.training.loss._MULTIPLIES_BFLOAT16", False)
    users, items, behaviors = (
        np.array([0] * 8).astype(int),
        np.array([4, 4, 1, 7, 9, 9, 2, 5]),
        [0, 1, 0, 1, 0, 1, 0, 1],
    )
    interactions = Interactions(
        users, items, np.array(behaviors), ("view", "buy"), "buy", [f"i{row}" for row in range(12)]
    )
    histories = Histories.of(interactions)
    rng = np.random.default_rng(1)
    batch = make_batch(histories, np.array([0]), longest=50, negatives=12, length_discount=0.0, rng=rng)
    left_out = int(np.flatnonzero(histories.codes == code)[0])
    buys = code != OTHER_ONLY  # what was only viewed is a target of viewing
    served = 1 if buys else 0
    torch.manual_seed(0)
    vectors, biases, code_bias = torch.randn(12, 6) / 2, torch.randn(12, 4) / 2, torch.randn(3, 2) / 2
    bonus = torch.tensor(1.3 if buys else 0.0)
    done = torch.zeros_like(batch.done)
    done[left_out, served] = True
    loss = batch_loss(
        Parameters(vectors[batch.candidates], biases[batch.candidates], code_bias, bonus),
        dataclasses.replace(batch, done=done),
        histories.target,
        1.0,
    )

    # The user as serving meets them: without the left-out behaviour, and what is done already is excluded.
    row = histories.items[left_out]
    rest = (histories.items != row) | (code == BOTH)
    rows, codes = histories.items[rest], np.where(histories.items == row, OTHER_ONLY, histories.codes)[rest]
    metric = MlpMetric(6, code_bias.numpy(), float(bonus), target=served)
    state = metric.encode_items(vectors, biases)
    query = Query(history_rows=rows, history_codes=codes.astype(np.int8))
    delta = scores_of(metric, query, state)
    delta[rows[codes != OTHER_ONLY] if buys else rows] = -torch.inf
    assert float(loss) == pytest.approx(float(-delta.log_softmax(dim=0)[row]), rel=1e-4)


def test_kernel_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    """The written-out gradient of the kernel sums is the numerical one."""
    monkeypatch.setattr("engine.training.loss._MULTIPLIES_BFLOAT16", False)
    torch.manual_seed(0)
    left, right, weights = (torch.randn(*shape, dtype=torch.float64) for shape in ((4, 3), (6, 3), (6,)))
    own, rows, columns = torch.tensor([0, 2, 3, 5]), torch.tensor([0, 1, 3]), torch.tensor([2, 0, 3])
    arguments = [each.requires_grad_() for each in (left, right, weights)]
    assert torch.autograd.gradcheck(KernelSums.apply, (*arguments, own, rows, columns))


def test_half_precision_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    """The bfloat16 path gives the plain path's loss within its precision."""
    histories = Histories.of(communities(60)[0])
    batch = make_batch(
        histories, np.arange(60), longest=50, negatives=30, length_discount=0.5, rng=np.random.default_rng(0)
    )
    torch.manual_seed(0)
    count = len(batch.candidates)
    parameters = Parameters(torch.randn(count, 16) * 0.6, torch.zeros(count, 4), torch.zeros(3, 2), torch.zeros(()))
    losses = []
    for half in (False, True):
        monkeypatch.setattr("engine.training.loss._MULTIPLIES_BFLOAT16", half)
        losses.append(float(batch_loss(parameters, batch, histories.target, 0.5)))
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=40), users=st.integers(1, 9), entries=st.integers(1, 60)
)
def test_groups_hold_every_user_once(lengths: list[int], users: int, entries: int) -> None:
    """Groups partition the users; a group of more than one user respects both caps."""
    groups = list(user_groups(np.array(lengths), users, entries, np.random.default_rng(0)))
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    for group in groups:
        assert 1 <= len(group) <= users
        assert len(group) == 1 or sum(lengths[user] for user in group) <= entries


def test_batch_estimates_the_whole_catalogue() -> None:
    """The candidates' weights add up to the number of items: no item is forgotten or counted twice."""
    histories = Histories.of(communities()[0])
    batch = make_batch(
        histories, np.arange(5), longest=3, negatives=25, length_discount=0.0, rng=np.random.default_rng(0)
    )
    assert float(batch.weights.sum()) == pytest.approx(histories.item_count)
    assert len(set(batch.candidates.tolist())) == len(batch.candidates)
    assert np.bincount(batch.user).max() <= 3
    assert torch.equal(batch.user[batch.pair_history], batch.user[batch.pair_item])


def test_histories_merge_repeats() -> None:
    """An item touched twice is one entry; its code says whether the target behaviour, others or both were shown."""
    histories = Histories.of(
        Interactions(
            np.array([7, 7, 7, 7, 3]),
            np.array([2, 2, 0, 1, 2]),
            np.array([0, 1, 0, 1, 1]),
            ("view", "buy"),
            "buy",
            ["a", "b", "c"],
        )
    )
    assert histories.lengths.tolist() == [1, 3]
    assert histories.items.tolist() == [2, 0, 1, 2]
    assert histories.codes.tolist() == [TARGET_ONLY, OTHER_ONLY, TARGET_ONLY, BOTH]
    assert histories.counts().tolist() == [[1, 0], [0, 1], [1, 2]]


def test_start_survives_less_rank_than_dimensions() -> None:
    """More dimensions than users or items are filled with zeros, and untouched items stay at zero."""
    histories = Histories.of(
        Interactions(np.array([0, 0, 1]), np.array([0, 1, 1]), np.zeros(3, int), ("buy",), "buy", ["a", "b", "c"])
    )
    vectors = spectral_vectors(histories, 64, norm=2.0, seed=0)
    assert vectors.shape == (3, 64)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [2.0, 2.0, 0.0], rtol=1e-5)


def test_row_adam_moves_only_its_rows() -> None:
    """A step moves the given rows against the gradient, by about the rate at first, and no other row."""
    table = torch.zeros(4, 2)
    RowAdam(table).step(torch.tensor([1, 3]), torch.tensor([[5.0, -0.1], [1.0, 2.0]]), rate=0.01)
    expected = torch.tensor([[0, 0], [-0.01, 0.01], [0, 0], [-0.01, -0.01]])
    torch.testing.assert_close(table, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"users": np.array([], int), "items": np.array([], int), "behaviors": np.array([], int)}, "no interactions"),
        ({"users": np.array([0])}, "differ in length"),
        ({"items": np.array([0, 9])}, "items holds a code"),
        ({"behaviors": np.array([0, -1])}, "behaviors holds a code"),
        ({"users": np.array([0.5, 1.0])}, "not a flat array of integers"),
        ({"target": "like"}, "like"),
        ({"item_ids": ["a", "a"]}, "not distinct"),
        ({"texts": ["one"]}, "texts"),
    ],
)
def test_unfit_data_is_refused(change: dict[str, object], named: str) -> None:
    """Interactions that do not fit together are a TrainingError that says which part."""
    fit = {
        "users": np.array([0, 1]),
        "items": np.array([0, 1]),
        "behaviors": np.array([0, 0]),
        "behavior_names": ("buy",),
        "target": "buy",
        "item_ids": ["a", "b"],
    }
    with pytest.raises(TrainingError, match=named):
        Interactions(**{**fit, **change})


@pytest.mark.parametrize("change", [{"dimensions": 0}, {"epochs": -1}, {"vector_rate": float("nan")}])
def test_unfit_settings_are_refused(change: dict[str, float]) -> None:
    """A setting out of range is refused by name before any work."""
    with pytest.raises(TrainingError, match=next(iter(change))):
        TrainingConfig(**change)
