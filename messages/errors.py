"""What this room raises.

MessageError
├── MalformedMessage     bytes, headers or values that break a rule; names the field
└── UnsupportedSchema    a body of a newer major schema: well formed for somebody newer than us
"""

from typing import Self


class MessageError(Exception):
    """Anything this room raises about a message."""


class MalformedMessage(MessageError):
    """A message that breaks a rule: `history[3].item: longer than 256 bytes`.

    `path` names the field, from the outside in; it is empty when the message as a whole is at fault.
    """

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path = path
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.path or 'message'}: {self.problem}"

    def under(self, parent: str) -> Self:
        """Return the same problem, seen from the field `parent` that holds this one."""
        dot = "." if self.path and not self.path.startswith("[") else ""
        return type(self)(f"{parent}{dot}{self.path}", self.problem)


class UnsupportedSchema(MessageError):
    """A body whose major schema version is newer than the one this process reads."""

    def __init__(self, major: int) -> None:
        super().__init__(major)
        self.major = major

    def __str__(self) -> str:
        return f"schema version {self.major} is newer than this process reads"
