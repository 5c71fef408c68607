"""What of the settings nobody may read over somebody's shoulder, and how it is shown instead."""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode, urlsplit

__all__ = ["MASK", "mask_options", "mask_password", "refuse_ambiguous_url"]

MASK = "***"

# Names of librdkafka's options; `sasl.oauthbearer.config` is free text that can hold anything.
_SECRET_NAME = re.compile(r"passw|passphrase|secret|token|credential|\.pem$|^ssl[._]key$|oauthbearer\.config", re.I)
_SCHEMES = ("redis", "rediss", "unix")


def mask_options(options: Mapping[str, str]) -> dict[str, str]:
    """Return the options with the values of password-like ones masked."""
    return {name: MASK if _SECRET_NAME.search(name) else value for name, value in options.items()}


def mask_password(url: str) -> str:
    """Return a URL that `refuse_ambiguous_url` lets pass with its password masked, before the host or in the query."""
    parts = urlsplit(url)
    user, at, host = parts.netloc.rpartition("@")
    name, colon, password = user.partition(":")
    netloc = f"{name}{colon}{MASK if password else ''}{at}{host}"
    query = [(key, MASK if _SECRET_NAME.search(key) else value) for key, value in parse_qsl(parts.query)]
    return f"{parts.scheme}://{netloc}{parts.path}" + (f"?{urlencode(query, safe='*/')}" if query else "")


def refuse_ambiguous_url(url: str) -> str:
    """Return the URL of a Redis server; raises ValueError, without its text, where its password may be cut short."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise ValueError("not a URL; special characters of a password have to be percent-encoded") from None
    if parts.scheme not in _SCHEMES:
        raise ValueError(f"should begin with {', '.join(f'{scheme}://' for scheme in _SCHEMES)}")
    if parts.fragment or "@" in parts.path + parts.query:
        raise ValueError("special characters of a password have to be percent-encoded")
    if parts.scheme != "unix" and not parts.hostname:
        raise ValueError("names no host")
    return url
