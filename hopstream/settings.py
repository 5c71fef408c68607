"""What can be set, where it can be set, and what it is if nobody sets it.

    settings = Settings.load(file=None, overrides={"search.beam": 128})
    settings.kafka.bootstrap_servers; settings.shown()

Flags win over the environment (``HOPSTREAM_SEARCH__BEAM=128``), that over ``hopstream.toml`` (``[search]``,
``beam = 128``), that over the defaults below. A name that nothing here answers to is refused, wherever it stands:
a setting that silently does nothing is worse than none.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from hopstream.masking import mask_options, mask_password, refuse_ambiguous_url
from hopstream.setting_sources import environment, fault, flags, merged, toml_file
from messages import MalformedMessage, Topics

__all__ = [
    "GraphSettings",
    "HttpSettings",
    "IndexSettings",
    "KafkaSettings",
    "RedisSettings",
    "SearchSettings",
    "Settings",
    "WorkerSettings",
]

FILE = Path("hopstream.toml")


def _index_name(name: str) -> str:
    try:
        return Topics(name).index
    except MalformedMessage as error:
        raise ValueError(error.problem) from None


def _no_flag(value: object) -> object:
    """Keep true and false, which Python takes for 1 and 0, out of numbers."""
    if isinstance(value, bool):
        raise ValueError("input should be a number")
    return value


def _option_text(value: object) -> object:
    """Write TOML's numbers and truth values as librdkafka reads them."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


def _no_address(options: dict[str, str]) -> dict[str, str]:
    for name in ("bootstrap.servers", "metadata.broker.list"):
        if name in options:
            raise ValueError(f"{name} has a place of its own: kafka.bootstrap_servers")
    return options


def _device(name: str) -> str:
    if re.fullmatch(r"cpu|cuda(:\d{1,2})?", name) is None:
        raise ValueError("must be `cpu`, `cuda`, or `cuda:` and the number of a GPU")
    return name


_Count = Annotated[int, BeforeValidator(_no_flag), Field(ge=1)]
_Option = Annotated[str, BeforeValidator(_option_text)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class IndexSettings(_Section):
    """Which catalogue this is about.

    name: of the index; 1 to 100 letters, digits, hyphens and underscores. Prefix of its topics, keys and groups.
    """

    name: Annotated[str, AfterValidator(_index_name)] = "default"


class KafkaSettings(_Section):
    """Where Kafka is.

    bootstrap_servers: host:port, several with commas between them.
    options: librdkafka's own, handed through to every client (``sasl.mechanism``, ``ssl.ca.location``, ...).
        In the environment HOPSTREAM_KAFKA__OPTIONS__SASL__MECHANISM, or all of them as JSON.
    """

    bootstrap_servers: Annotated[str, Field(min_length=1)] = "127.0.0.1:9092"
    options: Annotated[dict[str, _Option], AfterValidator(_no_address)] = Field(default_factory=dict, repr=False)


class RedisSettings(_Section):
    """Where Redis is.

    url: redis://, rediss:// (TLS) or unix://; special characters of a password are percent-encoded.
    """

    url: Annotated[str, AfterValidator(refuse_ambiguous_url)] = Field(default="redis://127.0.0.1:6379/0", repr=False)


class SearchSettings(_Section):
    """How thoroughly a request is searched for that does not say so itself.

    beam: best candidates that a query keeps, in items.
    width: candidates whose neighbours are looked at in one round.
    pairs: items scored in one round; as many as are asked for, if those are more.
    clusters: directions that a round looks into the whole catalogue for.
    rounds: of near and far by turns, one more with a filter; where not set, one where links lead to all that is wanted,
    and else two.
    budget: metric evaluations that a query may spend.
    """

    beam: _Count = 64
    width: _Count = 64
    pairs: _Count = 64
    clusters: _Count = 2
    rounds: _Count | None = None
    budget: _Count = 500


class WorkerSettings(_Section):
    """How much a request worker does at once.

    lanes: queries that run at the same time.
    threads: of the processor, for the search.
    device: where the search runs; `cpu`, `cuda`, or `cuda:1` for the second GPU, which wants hundreds of lanes.
    window: records taken from a partition and not yet answered.
    default_timeout_ms: milliseconds, at most an hour, for requests that do not bring a time-out.
    """

    lanes: _Count = 64
    threads: _Count = 1
    device: Annotated[str, AfterValidator(_device)] = "cpu"
    window: _Count = 8192
    default_timeout_ms: Annotated[_Count, Field(le=3_600_000)] = 10_000


class GraphSettings(_Section):
    """How the graph is built.

    degree: links of an item to those like it.
    relevant: links of an item to those that somebody who knows it alone would be shown; 0 for none.
    candidates: nearest items that a new one chooses its links from.
    alpha: at least 1; how much closer to a chosen neighbour than to the item another must be to be left out.
    """

    degree: _Count = 32
    relevant: Annotated[int, BeforeValidator(_no_flag), Field(ge=0, le=1_024)] = 64
    candidates: _Count = 64
    alpha: Annotated[float, BeforeValidator(_no_flag), Field(ge=1, allow_inf_nan=False)] = 1.0


class HttpSettings(_Section):
    """Where a worker tells how it is: /livez, /readyz, /metrics.

    host: address to listen on; 0.0.0.0 for all of this machine.
    port: 0 takes any free one, which the log names; so that workers beside each other do not collide.
    """

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, BeforeValidator(_no_flag), Field(ge=0, le=65_535)] = 0


class Settings(BaseSettings):
    """All settings, frozen. `load` looks at flags, environment and file; the constructor at its arguments only."""

    model_config = SettingsConfigDict(
        env_prefix="HOPSTREAM_",
        env_nested_delimiter="__",
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
    )

    index: IndexSettings = IndexSettings()
    kafka: KafkaSettings = KafkaSettings()
    redis: RedisSettings = RedisSettings()
    search: SearchSettings = SearchSettings()
    worker: WorkerSettings = WorkerSettings()
    graph: GraphSettings = GraphSettings()
    http: HttpSettings = HttpSettings()

    @classmethod
    def load(cls, file: Path | None = None, overrides: Mapping[str, object] | None = None) -> Self:
        """Read what is set, from the strongest source to the weakest.

        `file` must exist when it is given; otherwise `hopstream.toml` in the working directory is read if it is
        there. `overrides` are flags by dotted name (``{"search.beam": 128}``); None stands for a flag not given.
        Kafka's options are merged name by name. Raises `SettingsError`.
        """
        given = [flags(cls, overrides or {}), environment(cls)]
        if file is not None or FILE.exists():
            given.append(toml_file(cls, file or FILE))
        try:
            return cls(**merged(given))
        except ValidationError as error:
            raise fault(error, given) from None

    def shown(self) -> dict[str, Any]:
        """Return the settings as JSON-ready sections, without their secrets."""
        shown = self.model_dump(mode="json")
        shown["kafka"]["options"] = mask_options(self.kafka.options)
        shown["redis"]["url"] = mask_password(self.redis.url)
        return shown

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Leave the looking around to `load`, which knows where each value came from."""
        return (init_settings,)
