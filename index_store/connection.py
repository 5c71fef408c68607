"""The one seam to the server: commands in, answers or this room's errors out."""

import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha1
from importlib.resources import files
from typing import Any, Self

import redis
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.exceptions import AuthenticationWrongNumberOfArgsError, AuthorizationError, NoPermissionError
from redis.retry import Retry

from index_store.errors import AccessDenied, InvalidAddress, StoreError, StoreFull, StoreUnavailable, UnsuitableServer

_SOURCE = (files("index_store") / "functions.lua").read_text(encoding="utf-8")
#: Names the function library by its content: processes of two releases can share a server.
LIBRARY_VERSION = sha1(_SOURCE.encode(), usedforsecurity=False).hexdigest()[:10]
_LIBRARY = _SOURCE.replace("@VERSION@", LIBRARY_VERSION)

_PAUSE_S = 0.1  # before an absent server is tried again

Argument = bytes | str | int | float


class Server:
    """A Redis or Valkey server; bytes in, bytes out. Make one with `connect`."""

    def __init__(self, url: str, *, writer: bool, timeout_s: float) -> None:
        self.url, self.writer, self.timeout_s = url, writer, timeout_s
        # redis-py would send a write again whose answer was lost: a writer must learn of it instead.
        retry = Retry(NoBackoff(), 0) if writer else Retry(ExponentialBackoff(cap=0.5, base=0.02), 3)
        ours = {"protocol": 2, "decode_responses": False, "retry": retry}
        try:
            # What a URL says wins over what stands here.
            pool = redis.ConnectionPool.from_url(
                url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, socket_read_size=1 << 20, **ours
            )
            if changed := [name for name, value in ours.items() if pool.connection_kwargs[name] != value]:
                raise ValueError(f"{', '.join(changed)} cannot be chosen")
            pool.connection_class(**pool.connection_kwargs)  # not connected: it only takes the options, or does not
        except (TypeError, ValueError, redis.RedisError) as error:
            raise InvalidAddress(f"redis.url: {error}: write it as rediss://USER:PASSWORD@HOST:PORT/DB") from None
        self._client = redis.Redis.from_pool(pool)

    def sibling(self) -> "Server":
        """Another client of the same server, with sockets of its own."""
        return Server(self.url, writer=self.writer, timeout_s=self.timeout_s)

    def close(self) -> None:
        """Close the sockets; harmless when done twice."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, *command: Argument) -> Any:
        """Run one command.

        Raises `StoreUnavailable` without an answer, `AccessDenied` when user, password or rights are wrong, `StoreFull`
        out of memory, `StoreError` when refused otherwise.
        """
        try:
            return self._client.execute_command(*command)  # type: ignore[no-untyped-call]
        except redis.RedisError as error:
            raise _translate(error) from error

    def ask_all(self, commands: Sequence[Sequence[Argument]], *, atomic: bool = False) -> list[Any]:
        """Run commands in one round trip, `atomic` ones as a transaction. Raises as `ask` does."""
        return _without_errors(self._pipeline(commands, atomic))

    def call(self, function: str, keys: Sequence[bytes | str], arguments: Sequence[Argument]) -> list[Any]:
        """Call a function of the library, loading the library when the server lacks it."""
        answer: list[Any] = self.call_all(function, [(keys, arguments)])[0]
        return answer

    def call_all(self, function: str, calls: Sequence[tuple[Sequence[bytes | str], Sequence[Argument]]]) -> list[Any]:
        """Call a function many times in one round trip; several calls must bear being repeated."""
        name = f"{function}_{LIBRARY_VERSION}"
        commands = [("FCALL", name, len(keys), *keys, *arguments) for keys, arguments in calls]
        answers = self._pipeline(commands, atomic=False)
        if any(isinstance(a, redis.ResponseError) and "Function not found" in str(a) for a in answers):
            self.ask("FUNCTION", "LOAD", "REPLACE", _LIBRARY)
            return self.ask_all(commands)
        return _without_errors(answers)

    def scan_hash(self, key: str, count: int = 5000) -> Iterator[Mapping[bytes, bytes]]:
        """Parts of a hash; a field may come twice, and one changed meanwhile with either value."""
        cursor = 0
        while True:
            cursor, part = self.ask("HSCAN", key, cursor, "COUNT", count)
            yield part
            if not cursor:
                return

    def scan_keys(self, pattern: str, count: int = 1000) -> Iterator[Sequence[bytes]]:
        """Parts of the keys that match a pattern; a key may come twice."""
        cursor = 0
        while True:
            cursor, part = self.ask("SCAN", cursor, "MATCH", pattern, "COUNT", count)
            if part:
                yield part
            if not int(cursor):
                return

    def _pipeline(self, commands: Sequence[Sequence[Argument]], atomic: bool) -> list[Any]:
        pipeline = self._client.pipeline(transaction=atomic)
        try:
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
            return list(pipeline.execute(raise_on_error=False))
        except redis.RedisError as error:
            raise _translate(error) from error


def connect(url: str, *, writer: bool = False, timeout_s: float = 10.0, patience_s: float = 0.0) -> Server:
    """Connect to the server at `url` (`redis://`, `rediss://`, `unix://`) and check that it is fit to hold an index.

    A `writer`'s client never repeats a command whose answer was lost. `timeout_s` is of one command; for `patience_s`
    the connection is tried again while nobody answers. No message holds the URL, which may hold a password.

    Raises `InvalidAddress` for options that no connection has, `AccessDenied` when user or password are wrong,
    `UnsuitableServer` before version 7 or when `maxmemory-policy` is not `noeviction`, `StoreUnavailable` when nobody
    answers there.
    """
    deadline = time.monotonic() + patience_s
    server = Server(url, writer=writer, timeout_s=timeout_s)
    try:
        while True:
            try:
                _check_fitness(server)
            except StoreUnavailable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(_PAUSE_S)
            else:
                return server
    except BaseException:
        server.close()
        raise


def _check_fitness(server: Server) -> None:
    version = str(server.ask("INFO", "server")["redis_version"])
    if int(version.split(".")[0]) < 7:
        raise UnsuitableServer(f"the store is version {version}, without functions: use Redis or Valkey 7 or newer")
    policy = server.ask("INFO", "memory")["maxmemory_policy"]
    if policy != "noeviction":
        raise UnsuitableServer(
            f"the store may drop keys (maxmemory-policy {policy}), which breaks an index without a word: "
            "set `maxmemory-policy noeviction`, or use a server of its own"
        )


def _without_errors(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, redis.RedisError):
            raise _translate(answer) from answer
    return answers


def _translate(error: redis.RedisError) -> StoreError:
    # Wrong credentials are a kind of ConnectionError there: they come first.
    if isinstance(error, redis.AuthenticationError | AuthorizationError | AuthenticationWrongNumberOfArgsError):
        return AccessDenied(f"the store refuses this user or password ({error}): correct them in redis.url")
    if isinstance(error, NoPermissionError):
        return AccessDenied(
            f"the store's ACL forbids what hopstream needs ({error}): allow it to the user of redis.url"
        )
    if isinstance(error.__context__, ssl.SSLError):
        return StoreUnavailable(f"no trusted connection to the store ({error}): see ssl_ca_certs and host in redis.url")
    if isinstance(error, redis.ConnectionError | redis.TimeoutError | redis.ReadOnlyError):
        return StoreUnavailable(f"the store does not answer ({error}): is the server up, and is it the primary?")
    if isinstance(error, redis.OutOfMemoryError):
        return StoreFull(
            f"the store is full ({error}): raise `maxmemory`, or drop an old generation "
            "(`hopstream index drop --generation`)"
        )
    return StoreError(f"the store refused a command: {error}")
