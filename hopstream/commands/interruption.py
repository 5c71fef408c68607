"""A command that a signal ends: everything it started goes, in order, and the exit code tells the signal."""

from types import FrameType

_ended_by: list[int] = []


def unwind(number: int, _frame: FrameType | None) -> None:
    """Handle a signal: let it end everything that was started, in order, as Ctrl-C does."""
    _ended_by.append(number)
    # Not KeyboardInterrupt: where it passes through an `exec`, Python later ends by the signal instead of the code.
    raise SystemExit(128 + number)


def exit_code() -> int | None:
    """The exit code of a command that `unwind` has ended, None if it has not."""
    return 128 + _ended_by[0] if _ended_by else None
