"""Records that Python's client cannot write: librdkafka itself is asked to."""

import ctypes

from confluent_kafka import cimpl

_PRODUCER = 0
_END, _TOPIC, _PARTITION, _VALUE, _KEY, _FLAGS, _HEADER = 0, 1, 3, 4, 5, 7, 9  # tags of what comes next
_COPY = 2
_FLUSH_MS = 20_000

_librdkafka = ctypes.CDLL(cimpl.__file__)  # finds what the module is linked with
_librdkafka.rd_kafka_conf_new.restype = ctypes.c_void_p
_librdkafka.rd_kafka_new.restype = ctypes.c_void_p


def write_with_header(address: str, topic: str, key: bytes, value: bytes, header: bytes, *, partition: int = 0) -> None:
    """Write a record with a header of this name, any bytes but 0, and wait until Kafka has it."""
    settings = ctypes.c_void_p(_librdkafka.rd_kafka_conf_new())
    for name, setting in ((b"bootstrap.servers", address.encode()), (b"log_level", b"0")):
        assert _librdkafka.rd_kafka_conf_set(settings, name, setting, None, ctypes.c_size_t(0)) == 0
    producer = ctypes.c_void_p(_librdkafka.rd_kafka_new(_PRODUCER, settings, None, ctypes.c_size_t(0)))
    assert producer
    try:
        refused = _librdkafka.rd_kafka_producev(
            producer,
            _TOPIC, topic.encode(),
            _PARTITION, partition,
            _KEY, key, ctypes.c_size_t(len(key)),
            _VALUE, value, ctypes.c_size_t(len(value)),
            _HEADER, header, b"value", ctypes.c_ssize_t(5),
            _FLAGS, _COPY,
            _END,
        )  # fmt: skip
        assert refused == 0
        assert _librdkafka.rd_kafka_flush(producer, _FLUSH_MS) == 0
    finally:
        _librdkafka.rd_kafka_destroy(producer)
