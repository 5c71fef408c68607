from messages import Topics, codec, policies, reply_policy
from messages.headers import DeadLetter, format_dead_letter

TOPICS = Topics("shop")


def test_every_topic_has_its_policy_and_its_dead_letters() -> None:
    """What the design's table says: requests and behaviours go with time, items stay, letters are kept a while."""
    by_topic = {policy.topic: policy for policy in policies(TOPICS, partitions=4, shards=2)}
    live = {TOPICS.requests, TOPICS.requests_high, TOPICS.items, TOPICS.behaviors}
    assert set(by_topic) == live | {Topics.dead_letters(topic) for topic in live}
    settings = {topic: policy.settings for topic, policy in by_topic.items()}
    assert settings[TOPICS.requests]["message.timestamp.type"] == "LogAppendTime"
    assert settings[TOPICS.requests_high] == settings[TOPICS.requests]
    assert settings[TOPICS.items]["cleanup.policy"] == "compact"
    assert settings[TOPICS.items]["delete.retention.ms"] == str(7 * 24 * 3600 * 1000)
    assert settings[TOPICS.behaviors]["retention.ms"] == str(30 * 24 * 3600 * 1000)
    assert {topic for topic in by_topic if settings[topic]["cleanup.policy"] == "compact"} == {TOPICS.items}
    assert {topic for topic in by_topic if by_topic[topic].partitions_fixed} == {TOPICS.items}
    assert (by_topic[TOPICS.items].partitions, by_topic[TOPICS.requests].partitions) == (2, 4)


def test_every_message_fits_into_its_topic() -> None:
    """The largest message, a producer's full batch, and a dead letter around either."""
    producer_batch = 1_000_000  # librdkafka's message.max.bytes and batch.size
    for policy in (*policies(TOPICS, partitions=4), reply_policy("shop.replies.me")):
        room = int(policy.settings["max.message.bytes"])
        assert room >= max(*codec._MAX_BYTES.values(), producer_batch)
        if policy.topic.endswith(".dlt"):
            letter = format_dead_letter((), DeadLetter("t" * 249, 0, 0, "r" * 2000))
            headers = sum(len(name) + len(value or b"") for name, value in letter)
            assert room >= 1_048_588 + headers + 1000
