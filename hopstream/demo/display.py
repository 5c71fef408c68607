"""How the demo looks: progress while it works, tables when it is done."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from hopstream.demo.live import NewBehavior, NewItem
from hopstream.demo.report import DemoReport

Tick = Callable[[float], None]
"""Called with how much is done, of the total that the step named."""


class Display:
    """Writes to the console; with ``quiet`` nothing of it, for `--json`."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = Console(quiet=quiet, highlight=False)

    def say(self, line: str) -> None:
        """Print a line of prose; square brackets in names must have been escaped."""
        self._console.print(line)

    @contextmanager
    def step(self, title: str, total: float) -> Iterator[Tick]:
        """Show a bar on a terminal, and one line where there is none."""
        columns = (
            TextColumn("  {task.description:<42}"),
            BarColumn(bar_width=28),
            TaskProgressColumn(),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(title, total=total)
            yield lambda done: progress.update(task, completed=done)
            progress.update(task, completed=total)

    def basket(self, title: str, has: str, rows: Sequence[tuple[str, str]]) -> None:
        """Show what somebody has and what they are recommended, with descriptions."""
        self._console.print(f"\n[bold]{escape(title)}[/bold] has {escape(has)}")
        table = Table(show_header=False, box=None, padding=(0, 1, 0, 2))
        table.add_column(no_wrap=True, min_width=max((len(name) for name, _ in rows), default=0))
        table.add_column(style="dim", overflow="ellipsis", no_wrap=True)
        for name, description in rows:
            table.add_row(escape(name), escape(description))
        self._console.print(table)

    def quality(self, report: DemoReport) -> None:
        """Show hit rates, recall and speed."""
        table = Table(title="Measured in this run", title_justify="left", show_header=False, box=None)
        table.add_column()
        table.add_column(justify="right", style="bold")
        table.add_column(style="dim")
        for row in _figures(report):
            table.add_row(*row)
        self._console.print()
        self._console.print(table)

    def new_item(self, seen: NewItem | None) -> None:
        """Tell how long a new item took."""
        if seen is None:
            self.say("\nNew item: nobody in this catalogue has anything like it, so there was nothing to watch.")
            return
        self.say(
            f"\nNew item [bold]{escape(seen.item.id)}[/bold]: produced to Kafka, and {seen.milliseconds:.0f} ms later "
            f"recommended at place {seen.place} to somebody who has {escape(seen.asked_by)}."
        )

    def new_behavior(self, seen: NewBehavior | None) -> None:
        """Tell what a behaviour changed."""
        if seen is None:
            self.say("New behaviour: none would change a list of this catalogue, so there was nothing to watch.")
            return
        came = [item for item in seen.after if item not in seen.before]
        user, verb, item = map(escape, (seen.behavior.user, seen.behavior.behavior, seen.behavior.item))
        self.say(
            f"New behaviour: {user} {verb} [bold]{item}[/bold], and {seen.milliseconds:.0f} ms later their list held "
            f"{len(came)} other {'item' if len(came) == 1 else 'items'}: {escape(', '.join(came))}."
        )


def _figures(report: DemoReport) -> list[tuple[str, str, str]]:
    return [
        ("answered", f"{report.answered} of {report.requests}", "status ok, 10 items"),
        ("hit rate at 10", f"{report.hit_rate_at_10:.3f}", "of held-out (user, item) pairs"),
        ("  popularity", f"{report.popularity_hit_rate_at_10:.3f}", "the same pairs"),
        ("  item k-NN (BM25)", f"{report.knn_hit_rate_at_10:.3f}", "the same pairs"),
        ("recall at 10", f"{report.recall_at_10:.3f}", "of the exhaustive top 10, same metric"),
        ("catalogue scored", f"{report.catalogue_share:.1%}", f"of {report.catalogue:,} items, per request"),
        ("queries per second", f"{report.queries_per_second:.0f}", "through Kafka, all on this machine"),
        ("latency p50 / p99", f"{report.p50_ms:.0f} / {report.p99_ms:.0f} ms", "end to end, many at once"),
    ]
