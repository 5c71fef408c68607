"""Offline evaluation: baselines, and hit rates against held-out behaviour.

held_out = data.held_out()
excluded = touched_matrix(data)
lists = ItemKnn.fit(data).recommend(held_out.users, 10, excluded)
hit_rate(lists, held_out)
"""

from hopstream.evaluation.hit_rates import hit_rate, ndcg, places
from hopstream.evaluation.interaction_matrix import touched_matrix, weight_matrix
from hopstream.evaluation.item_knn import ItemKnn, bm25
from hopstream.evaluation.popularity import Popularity

__all__ = ["ItemKnn", "Popularity", "bm25", "hit_rate", "ndcg", "places", "touched_matrix", "weight_matrix"]
