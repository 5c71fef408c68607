import pytest

from messages import MalformedMessage, Topics


def test_every_topic_is_named_after_its_index() -> None:
    """The names are those of the design, each under the index's own prefix."""
    topics = Topics("shop")
    assert (topics.requests, topics.requests_high) == ("shop.requests", "shop.requests.high")
    assert (topics.items, topics.behaviors) == ("shop.items", "shop.behaviors")
    assert topics.replies("web-1") == "shop.replies.web-1"
    assert topics.dead_letters(topics.items) == "shop.items.dlt"


def test_only_reply_topics_of_this_index_are_replies() -> None:
    """The allow-list takes what `replies` makes and nothing that merely looks like it."""
    topics = Topics("shop")
    assert topics.is_replies(topics.replies("web-1"))
    for stranger in ("shop.items", "shop.replies.", "shop.replies.a.dlt", "shopXreplies.a", "other.replies.a"):
        assert not topics.is_replies(stranger)


@pytest.mark.parametrize("name", ["", "a.b", "a b", "é", "x" * 101, "a\n"])
def test_names_that_would_confuse_are_refused(name: str) -> None:
    """An index or a client is named by letters, digits, hyphens and underscores."""
    with pytest.raises(MalformedMessage, match="index: not a name"):
        Topics(name)
    with pytest.raises(MalformedMessage, match="client: not a name"):
        Topics("shop").replies(name)
