"""hopstream: what should this user see next, over event streams.

with RecommendClient("127.0.0.1:9092", "default") as client:
    for found in client.for_user("u1", k=5).items:
        print(found.item, found.score)
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hopstream.client import RecommendClient
    from messages import Behavior, Item, Recommendations, RecommendRequest

    __version__: str

__all__ = ["Behavior", "Item", "RecommendClient", "RecommendRequest", "Recommendations", "__version__"]


def __getattr__(name: str) -> object:
    """Import on first use: numpy starts threads, and `hopstream.embedded` has to fork before there are any."""
    if name == "RecommendClient":
        from hopstream.client import RecommendClient

        return RecommendClient
    if name == "__version__":
        from importlib.metadata import version

        return version("hopstream")
    if name in __all__:
        import messages

        return getattr(messages, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
