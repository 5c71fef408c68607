"""What a service waits for, each thing said once."""

import structlog

_log = structlog.get_logger(__name__)


class Waits:
    """What is waited for, by name; a problem is logged when it is new, not as long as it lasts."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}
        self._said: dict[str, set[str]] = {}

    def begin(self, name: str, problem: str, **details: str) -> None:
        """Wait for something, because of this. details: for the log; they may differ every time."""
        self._problems[name] = problem
        said = self._said.setdefault(name, set())
        if problem not in said:
            said.add(problem)
            _log.warning(f"waiting for {name}", problem=problem, **details)

    def end(self, name: str) -> None:
        """Wait for it no longer."""
        if self._problems.pop(name, None) is not None:
            del self._said[name]
            _log.info(f"waiting for {name} is over")

    @property
    def current(self) -> tuple[str, ...]:
        """What is waited for now, and why. For other threads, too."""
        return tuple(f"{name}: {problem}" for name, problem in tuple(self._problems.items()))
