"""Where settings come from: flags, environment, file; each knows how its places are called.

What none of them may hold is a name that the model does not know; the nearest known one is named with it.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource

from hopstream.errors import SettingsError

__all__ = ["Given", "environment", "fault", "flags", "merged", "toml_file"]

_Path = tuple[str, ...]
_Tree = dict[str, Any]
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Given:
    """What one source says: values by section and name; `place` tells how it calls a field."""

    values: _Tree
    place: Callable[[_Path], str]


def flags(model: type[BaseModel], overrides: Mapping[str, object]) -> Given:
    """Take in flags by dotted name, those that are None excepted. Raises `SettingsError`."""
    values: _Tree = {}
    for name, value in overrides.items():
        if value is not None:
            section, _, rest = name.partition(".")
            values = _overlaid(values, {section: {rest: value} if rest else value})
    return _checked(model, values, lambda _: "the command line")


def environment(model: type[BaseSettings]) -> Given:
    """Read the environment's variables with the model's prefix. Raises `SettingsError`."""
    prefix = str(model.model_config["env_prefix"])
    names = {name.upper(): name for name in os.environ if name.upper().startswith(prefix)}
    for upper, name in names.items():
        path = tuple(upper.removeprefix(prefix).lower().split("__"))
        if not _is_known(model, path):
            nearest = _variable(prefix, _nearest(model, path))
            raise SettingsError(name, f"unknown; the nearest known one is {nearest}", "the environment")
        if _is_json(model, path):
            _check_json(path, name)
    values = EnvSettingsSource(model)()

    def place(path: _Path) -> str:
        set_by = (_variable(prefix, path[:length]) for length in range(len(path), 0, -1))
        return next((names[variable] for variable in set_by if variable in names), "the environment")

    return _checked(model, values, place)


def toml_file(model: type[BaseModel], file: Path) -> Given:
    """Read a file of TOML. Raises `SettingsError`, also when it is not there or is not TOML."""
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError("", f"cannot be read: {error.strerror}", str(file)) from None
    except ValueError as error:  # of the encoding too
        raise SettingsError("", f"not TOML: {error}", str(file)) from None
    return _checked(model, values, lambda _: str(file))


def merged(given: Sequence[Given]) -> _Tree:
    """Lay the sources over each other; the first is the strongest."""
    return reduce(_overlaid, (source.values for source in reversed(given)), {})


def fault(error: ValidationError, given: Sequence[Given]) -> SettingsError:
    """Say what the model has against a value, and whose it is; the value itself only where it cannot be secret."""
    first = error.errors(include_url=False, include_context=False)[0]
    path = tuple(str(part) for part in first["loc"])
    problem = first["msg"].removeprefix("Value error, ")
    problem = problem[:1].lower() + problem[1:]
    if path not in _SECRET and path[:2] not in _SECRET:
        problem += f", not {repr(first['input'])[:_SHOWN_CHARACTERS]}"
    source = next((source for source in given if _has(source.values, path)), None)
    return SettingsError(".".join(path), problem, source.place(path) if source else "")


_SECRET = {("kafka",), ("kafka", "options"), ("redis",), ("redis", "url")}


def _checked(model: type[BaseModel], values: _Tree, place: Callable[[_Path], str]) -> Given:
    """Refuse unknown names, and bring maps of dotted names into one form."""
    for path in _leaves(values):
        if not _is_known(model, path):
            nearest = ".".join(_nearest(model, path))
            raise SettingsError(".".join(path), f"unknown; the nearest known one is {nearest}", place(path))
    return Given(_with_dotted_names(model, values), place)


def _sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    return {
        name: field.annotation
        for name, field in model.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
    }


def _is_known(model: type[BaseModel], path: _Path) -> bool:
    """Say whether a path names a section, a field, or something inside a field that is a map."""
    section = _sections(model).get(path[0])
    if section is None or len(path) == 1:
        return section is not None
    return path[1] in section.model_fields and (len(path) == 2 or path[1] in _maps(section))


def _is_json(model: type[BaseModel], path: _Path) -> bool:
    """Say whether a variable for this path holds JSON: a whole section, or a field that is a map."""
    return len(path) == 1 or (len(path) == 2 and path[1] in _maps(_sections(model)[path[0]]))


def _check_json(path: _Path, name: str) -> None:
    try:
        json.loads(os.environ[name])
    except ValueError:
        raise SettingsError(".".join(path), f"not JSON; to set one value, write {name}__NAME", name) from None


def _maps(section: type[BaseModel]) -> set[str]:
    return {
        name for name, field in section.model_fields.items() if getattr(field.annotation, "__origin__", None) is dict
    }


def _nearest(model: type[BaseModel], path: _Path) -> _Path:
    known = [f"{name}.{field}" for name, section in _sections(model).items() for field in section.model_fields]
    (nearest,) = difflib.get_close_matches(".".join(path), known, n=1, cutoff=0.0)
    return tuple(nearest.split("."))


def _variable(prefix: str, path: _Path) -> str:
    return f"{prefix}{'__'.join(path)}".upper()


def _leaves(values: _Tree, above: _Path = ()) -> Iterator[_Path]:
    """Yield the path of every value, and of every map without any."""
    for name, value in values.items():
        path = (*above, name)
        if isinstance(value, dict) and value:
            yield from _leaves(value, path)
        else:
            yield path


def _with_dotted_names(model: type[BaseModel], values: _Tree) -> _Tree:
    """Write `{"sasl": {"mechanism": m}}`, as TOML and the environment have it, as `{"sasl.mechanism": m}`."""
    dotted = dict(values)
    for name, section in _sections(model).items():
        if isinstance(fields := values.get(name), dict):
            maps = {field: fields[field] for field in _maps(section) if isinstance(fields.get(field), dict)}
            flat = {field: {".".join(path): _at(tree, path) for path in _leaves(tree)} for field, tree in maps.items()}
            dotted[name] = {**fields, **flat}
    return dotted


def _at(values: _Tree, path: _Path) -> object:
    return reduce(lambda tree, name: tree[name], path, values)


def _has(values: object, path: _Path) -> bool:
    for name in path:
        if not isinstance(values, dict):
            return True  # the fault is that there is nothing inside
        if name not in values:
            return False
        values = values[name]
    return True


def _overlaid(under: _Tree, over: _Tree) -> _Tree:
    """Return both trees as one; where they meet, `over` wins."""
    both = dict(under)
    for name, value in over.items():
        below = both.get(name)
        both[name] = _overlaid(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return both
