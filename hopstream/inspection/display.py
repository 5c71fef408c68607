"""How a summary and a report look on a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.filesize import decimal
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from hopstream.inspection.report import Fault, Report
from hopstream.inspection.summary import GenerationSummary, IndexSummary, PartitionSummary


class Steps:
    """Shows parts of a long work as bars on standard error, where that is a terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)

    @contextmanager
    def __call__(self, title: str, total: int) -> Iterator[Callable[[int], None]]:
        """Begin a part of so much; what this gives is told how much more is done."""
        with Progress(console=self._console, disable=not self._console.is_terminal, transient=True) as progress:
            task = progress.add_task(title, total=total)
            yield lambda done: progress.advance(task, done)


def show_summary(summary: IndexSummary) -> None:
    """Print what an index holds."""
    console, store = _console(), summary.store
    limit = f" of {decimal(store.max_bytes)}" if store.max_bytes else ""
    console.print(f"[bold]{escape(summary.index)}[/bold] on {escape(store.server)}: {decimal(store.used_bytes)}{limit} "
                  f"used, {store.policy}, AOF {'on' if store.aof else 'off'}")  # fmt: skip
    if not summary.generations:
        console.print("no generation yet: hopstream index create")
    for generation in summary.generations:
        console.print(_generation_table(generation))
    if summary.histories:
        console.print(_histories_table(summary.histories))
    _show_notes(console, summary.notes)


def show_report(report: Report) -> None:
    """Print whether an index is sound, and if not, what is wrong with it."""
    console = _console()
    verdict = "[green]sound[/green]" if report.sound else "[red]not sound[/red]"
    console.print(
        f"generation [bold]{escape(report.generation)}[/bold] of {escape(report.index)} is {verdict}: "
        f"{report.items:,} items in {report.rows:,} rows, batch {report.seq:,}, offset {_number(report.offset)}, "
        f"lag {_number(report.lag)}, {report.log_entries:,} log entries"
    )
    if report.faults or report.warnings:
        table = Table("", "kind", "count", "for example", box=None)
        for style, faults in (("red", report.faults), ("yellow", report.warnings)):
            for fault in faults:
                table.add_row(*_fault_row(style, fault))
        console.print(table)
    _show_notes(console, report.notes)


def _fault_row(style: str, fault: Fault) -> tuple[str, str, str, str]:
    word = "fault" if style == "red" else "warning"
    return f"[{style}]{word}[/{style}]", fault.kind, f"{fault.count:,}", escape("; ".join(fault.examples))


def _generation_table(generation: GenerationSummary) -> Table:
    table = Table(
        title=f"generation {escape(generation.name)}{' (active)' if generation.active else ''}",
        title_justify="left", show_header=False, box=None,
    )  # fmt: skip
    table.add_row("metric", f"{generation.metric} {escape(generation.metric_version)}")
    table.add_row("artefact", escape(generation.artefact) or "none")
    table.add_row("vectors", f"{generation.dimensions} dimensions")
    table.add_row("links of an item", f"{generation.degree} to like items, {generation.relevant} to relevant ones")
    for shard in generation.shards:
        table.add_row(
            f"shard {shard.shard}",
            f"{shard.items:,} items in {shard.rows:,} rows ({shard.freed_rows:,} freed), "
            f"{decimal(shard.block_bytes)} of columns",
        )
        table.add_row("", f"batch {shard.seq:,}, epoch {shard.epoch}")
        table.add_row("", f"log: {shard.log_entries:,} entries, {decimal(shard.log_bytes)}")
        table.add_row("", _position(shard.position))
    return table


def _histories_table(histories: tuple[PartitionSummary, ...]) -> Table:
    table = Table(title="histories", title_justify="left", show_header=False, box=None)
    for partition in histories:
        table.add_row(f"partition {partition.partition}", _position(partition))
    return table


def _position(partition: PartitionSummary) -> str:
    if partition.offset is None:
        return f"nothing read, lag {_number(partition.lag)}"
    topic, age_s = escape(partition.topic_id or ""), partition.age_s or 0.0
    return f"offset {partition.offset:,} of topic {topic}, {age_s:,.0f} s old, lag {_number(partition.lag)}"


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _show_notes(console: Console, notes: tuple[str, ...]) -> None:
    for note in notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}")


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)
