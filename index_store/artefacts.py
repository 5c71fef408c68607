"""Metric artefacts in the store itself: a few named files each, under the digest of what is in them."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from typing import Any
from uuid import uuid4

import msgpack

from index_store.connection import Server
from index_store.errors import ArtefactTooLarge, ArtefactUnreadable
from index_store.keys import IndexKeys, check_name

#: The most that an artefact may hold, in bytes: it takes the store's memory, and is read as a whole.
MAX_ARTEFACT_BYTES = 512 << 20
_CHUNK_BYTES = 1 << 20
_MANIFEST = "manifest"
_MAX_MANIFEST_BYTES = 4096
_UNFINISHED_S = 600  # an upload that was cut short goes by itself


def artefact_digest(files: Mapping[str, bytes]) -> str:
    """SHA-256, in hexadecimal digits, over names, sizes and contents."""
    digest = sha256(_manifest(files))
    for name in sorted(files):
        digest.update(files[name])
    return digest.hexdigest()


class Artefacts:
    """The artefacts of one index, each a hash of its files' chunks."""

    def __init__(self, server: Server, index: str) -> None:
        self._server, self._keys = server, IndexKeys(check_name("index", index))

    def put(self, files: Mapping[str, bytes]) -> str:
        """Store an artefact and return its digest; one that is there already is replaced by the same bytes.

        A reader finds it complete or not at all. What an error left of the upload goes by itself: put it again.
        Raises `ArtefactTooLarge`.
        """
        if (size := sum(map(len, files.values()))) > MAX_ARTEFACT_BYTES:
            raise ArtefactTooLarge(
                f"the artefact has {size:,} bytes, the store takes at most {MAX_ARTEFACT_BYTES:,}: "
                "keep it in a folder that all workers can read, and create the generation --by-path"
            )
        digest = artefact_digest(files)
        upload, key = self._keys.upload(digest, uuid4().hex), self._keys.artefact(digest)
        for field, content in _fields(files):
            commands = [("HSET", upload, field, content), ("EXPIRE", upload, _UNFINISHED_S)]
            self._server.ask_all(commands, atomic=True)
        self._server.ask_all([("RENAME", upload, key), ("PERSIST", key)], atomic=True)
        return digest

    def get(self, digest: str) -> dict[str, bytes]:
        """The files of an artefact. Raises `ArtefactUnreadable` where it is missing or damaged."""
        key = self._keys.artefact(digest)
        manifest: bytes | None = self._server.ask("HGET", key, _MANIFEST)
        if manifest is None:
            raise ArtefactUnreadable(f"the store has no artefact {digest}")
        files = {name: self._read(key, name, size) for name, size in _sizes(manifest).items()}
        if artefact_digest(files) != digest:
            raise ArtefactUnreadable(f"{key} in the store is damaged: it does not have the digest that it is named by")
        return files

    def _read(self, key: str, name: str, size: int) -> bytes:
        chunks = []
        for at in range(0, size, _CHUNK_BYTES):
            chunk: bytes | None = self._server.ask("HGET", key, _field(name, at))
            if chunk is None or len(chunk) != min(_CHUNK_BYTES, size - at):
                raise ArtefactUnreadable(f"{key} in the store is damaged: {name} lacks what belongs at byte {at:,}")
            chunks.append(chunk)
        return b"".join(chunks)


def _fields(files: Mapping[str, bytes]) -> Iterator[tuple[str, bytes]]:
    """What the hash of an artefact holds: the manifest, and every file in chunks."""
    yield _MANIFEST, _manifest(files)
    for name, content in files.items():
        for at in range(0, len(content), _CHUNK_BYTES):
            yield _field(name, at), content[at : at + _CHUNK_BYTES]


def _field(name: str, at: int) -> str:
    return f"{name}:{at}"


def _manifest(files: Mapping[str, bytes]) -> bytes:
    return bytes(msgpack.packb([(name, len(files[name])) for name in sorted(files)]))


def _sizes(manifest: bytes) -> dict[str, int]:
    """File sizes by name; a manifest is as foreign as everything that comes from the store."""
    entries: Any = None
    if len(manifest) <= _MAX_MANIFEST_BYTES:
        with suppress(ValueError, TypeError, msgpack.UnpackException):
            entries = [(name, size) for name, size in msgpack.unpackb(manifest)]
    if entries is None or not all(type(name) is str and type(size) is int and size >= 0 for name, size in entries):
        raise ArtefactUnreadable("the manifest of an artefact in the store is damaged")
    if sum(size for _, size in entries) > MAX_ARTEFACT_BYTES:
        raise ArtefactUnreadable(f"an artefact in the store claims more than {MAX_ARTEFACT_BYTES:,} bytes")
    return dict(entries)
