import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.best_keys import BestKeys, keep_best


@settings(deadline=None)  # the first call compiles
@given(st.integers(0, 2**32), st.integers(1, 9), st.integers(1, 200), st.sampled_from([3.0, 1e6]))
def test_the_best_of_all_blocks_are_kept_in_any_order(seed: int, count: int, rows: int, steps: float) -> None:
    """Whichever block comes first; of equal scores, of which there are many or few, the lowest rows."""
    rng = np.random.default_rng(seed)
    scores = (np.rint(rng.normal(size=(3, rows)) * steps) / steps + 0.0).astype(np.float32)  # no −0.0
    blocks = np.split(np.arange(rows), np.sort(rng.integers(0, rows + 1, size=4)))
    best = BestKeys.of(3, count)
    for turn in rng.permutation(len(blocks)):
        if len(blocks[turn]):
            for lines in (np.array([2, 0]), np.array([1])):
                keep_best(scores[np.ix_(lines, blocks[turn])], lines, blocks[turn][0], *best)
    expected = np.full((3, count), -1)
    expected[:, : min(count, rows)] = np.argsort(-scores, axis=1, kind="stable")[:, :count]
    assert best.rows().tolist() == expected.tolist()
