import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hopstream.errors import SettingsError
from hopstream.masking import MASK, mask_password, refuse_ambiguous_url
from hopstream.settings import Settings


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Take away what the machine that tests run on has set."""
    for name in [name for name in os.environ if name.upper().startswith("HOPSTREAM_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def written(text: str, name: str = "some.toml") -> Path:
    """Write a file of settings into the working directory."""
    path = Path(name)
    path.write_text(text)
    return path


def fault(file: Path | None = None, **flags: object) -> SettingsError:
    """Return what `load` has against the settings."""
    with pytest.raises(SettingsError) as caught:
        Settings.load(file, {name.replace("_", ".", 1): value for name, value in flags.items()})
    return caught.value


def test_nothing_set_gives_the_defaults() -> None:
    """Without flags, environment and file, the settings are those of the constructor."""
    settings = Settings.load()
    assert settings == Settings()
    assert (settings.index.name, settings.kafka.bootstrap_servers) == ("default", "127.0.0.1:9092")
    assert (settings.search.beam, settings.worker.default_timeout_ms, settings.graph.alpha) == (64, 10_000, 1.0)


def test_flags_over_environment_over_file_over_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each source wins over the weaker ones and leaves alone what it does not name."""
    file = written("[search]\nbeam = 1\nwidth = 1\nbudget = 1\n")
    monkeypatch.setenv("HOPSTREAM_SEARCH__BEAM", "2")
    monkeypatch.setenv("hopstream_search__width", "2")
    search = Settings.load(file, {"search.beam": 3, "search.width": None}).search
    assert (search.beam, search.width, search.budget, search.clusters) == (3, 2, 1, 2)


def test_how_many_rounds_a_search_makes_may_be_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is, unless a number is set."""
    assert Settings.load().search.rounds is None
    monkeypatch.setenv("HOPSTREAM_SEARCH__ROUNDS", "3")
    assert Settings.load().search.rounds == 3
    assert fault(search_rounds=0).field == "search.rounds"


def test_the_file_of_the_working_directory_is_found() -> None:
    """`hopstream.toml` is read where it lies; a file that is named is read instead of it."""
    written('[index]\nname = "here"', "hopstream.toml")
    assert Settings.load().index.name == "here"
    assert Settings.load(written('[index]\nname = "there"')).index.name == "there"


def test_kafka_options_can_be_written_in_every_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """Dotted, nested or as JSON, options end under librdkafka's names, as text, merged over all sources."""
    file = written('[kafka.options]\nsasl.mechanism = "file"\n"linger.ms" = 5\nenable.idempotence = true')
    monkeypatch.setenv("HOPSTREAM_KAFKA__OPTIONS", '{"security.protocol": "SASL_SSL"}')
    monkeypatch.setenv("HOPSTREAM_KAFKA__OPTIONS__SASL__MECHANISM", "PLAIN")
    options = Settings.load(file, {"kafka.options": {"client.rack": "r1"}}).kafka.options
    assert options == {
        "sasl.mechanism": "PLAIN",
        "linger.ms": "5",
        "enable.idempotence": "true",
        "security.protocol": "SASL_SSL",
        "client.rack": "r1",
    }


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("HOPSTREAM_SEARCH__BEEM", "HOPSTREAM_SEARCH__BEAM"),
        ("HOPSTREAM_KAFKA__BOOTSTRAP", "HOPSTREAM_KAFKA__BOOTSTRAP_SERVERS"),
        ("HOPSTREAM_REDIS_URL", "HOPSTREAM_REDIS__URL"),
        ("HOPSTREAM_SEARCH__BEAM__X", "HOPSTREAM_SEARCH__BEAM"),
    ],
)
def test_an_unknown_variable_is_named_with_the_nearest(
    variable: str, nearest: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A misspelt variable is refused, and the error says what was probably meant."""
    monkeypatch.setenv(variable, "1")
    assert str(fault()) == f"{variable}: unknown; the nearest known one is {nearest} (from the environment)"


def test_an_unknown_key_is_named_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    """So is a misspelt key or section of the file, a flag, and a key inside a variable's JSON."""
    end = "unknown; the nearest known one is search.beam (from some.toml)"
    assert str(fault(written("[search]\nbeem = 3"))) == f"search.beem: {end}"
    assert str(fault(written("[serch]\nbeam = 3"))) == f"serch.beam: {end}"
    assert fault(search_baem=3).origin == "the command line"
    monkeypatch.setenv("HOPSTREAM_SEARCH", '{"baem": 3}')
    assert fault().origin == "HOPSTREAM_SEARCH"


def test_a_wrong_value_names_field_problem_and_origin(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which field, what is wrong, what was given and in which source, the winning one."""
    file = written('[index]\nname = "a.b"\n[search]\nbeam = 0\n')
    assert str(fault(file)).startswith("index.name: not a name of 1..100 letters")
    monkeypatch.setenv("HOPSTREAM_INDEX__NAME", "good")
    error = fault(file)
    assert (error.field, error.origin) == ("search.beam", "some.toml")
    assert error.problem == "input should be greater than or equal to 1, not 0"
    monkeypatch.setenv("HOPSTREAM_SEARCH__BEAM", "many")
    assert fault(file).origin == "HOPSTREAM_SEARCH__BEAM"
    assert fault(file, search_beam=-1).origin == "the command line"


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("search = 3", "search"),
        ("[search]\nbeam = true", "search.beam"),
        ("[graph]\nalpha = nan", "graph.alpha"),
        ("[graph]\nalpha = 0.5", "graph.alpha"),
        ("[worker]\ndefault_timeout_ms = 3600001", "worker.default_timeout_ms"),
        ('[worker]\ndevice = "gpu"', "worker.device"),
        ('[kafka]\nbootstrap_servers = ""', "kafka.bootstrap_servers"),
        ('[kafka.options]\n"bootstrap.servers" = "x"', "kafka.options"),
        ('[redis]\nurl = "http://x"', "redis.url"),
        ('[redis]\nurl = "redis://"', "redis.url"),
    ],
)
def test_values_that_cannot_work_are_refused(text: str, field: str) -> None:
    """What no worker or server could do anything with is refused before anything starts."""
    assert fault(written(text)).field == field


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """A missing file, a folder, a broken file and one that is no text are one error that names the file."""
    assert str(fault(Path("none.toml"))) == "none.toml: cannot be read: No such file or directory"
    assert str(fault(tmp_path)) == f"{tmp_path}: cannot be read: Is a directory"
    assert str(fault(written("[search\n"))).startswith("some.toml: not TOML: ")
    Path("some.toml").write_bytes(b"\xff\xfe")
    assert str(fault(Path("some.toml"))).startswith("some.toml: not TOML: ")


@pytest.mark.parametrize("variable", ["HOPSTREAM_KAFKA__OPTIONS", "HOPSTREAM_KAFKA"])
def test_a_section_given_as_anything_but_json_is_refused(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable and how to set one value; it does not repeat what may be a secret."""
    monkeypatch.setenv(variable, "sasl.password=hunter2")
    error = fault()
    assert (error.origin, error.problem) == (variable, f"not JSON; to set one value, write {variable}__NAME")


def test_secrets_are_masked_when_shown() -> None:
    """What is shown is JSON, tells what is set and keeps every password to itself; so does the repr."""
    options = {"sasl.mechanism": "PLAIN", "sasl.username": "u", "sasl.password": "hunter2", "ssl.key.pem": "hunter2"}
    url = "redis://u:hunter2@host:1/2?password=hunter2&db=3"
    settings = Settings.load(overrides={"kafka.options": options, "redis.url": url})
    shown = json.dumps(settings.shown()) + repr(settings)
    assert "hunter2" not in shown
    assert settings.shown()["redis"]["url"] == f"redis://u:{MASK}@host:1/2?password={MASK}&db=3"
    assert settings.shown()["kafka"]["options"]["sasl.username"] == "u"
    assert settings.kafka.options == options


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:6379/0", "rediss://h", "unix:///tmp/x.sock?db=1", "redis://[::1]:1"]
)
def test_an_address_without_a_password_is_shown_as_it_is(url: str) -> None:
    """Masking changes nothing where there is nothing to mask."""
    assert mask_password(refuse_ambiguous_url(url)) == url


@given(st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=12))
def test_no_password_is_shown_in_part(middle: str) -> None:
    """Whatever a password holds, its URL is either refused without repeating it or shown without it."""
    password = f"<left>{middle}<right>"
    try:
        shown = mask_password(refuse_ambiguous_url(f"redis://u:{password}@host:6379/0"))
    except ValueError as error:
        shown = str(error)
    assert "<left>" not in shown
    assert "<right>" not in shown


def test_secrets_stay_out_of_errors() -> None:
    """A wrong value of a field that may hold a secret is not repeated."""
    for text in ('[redis]\nurl = "redis://:hunter2/@h"', '[kafka]\noptions = "hunter2"', 'redis = "hunter2"'):
        assert "hunter2" not in str(fault(written(text)))


def test_settings_are_frozen() -> None:
    """Nobody changes a setting behind another's back."""
    with pytest.raises(ValidationError, match="frozen"):
        Settings().search.beam = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        Settings().search = Settings().search  # type: ignore[misc]
