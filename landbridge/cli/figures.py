"""The figures of an evaluation, as tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from landbridge.cli.console import out

if TYPE_CHECKING:
    from landbridge.evaluation import Evaluation


def print_evaluation(figures: Evaluation) -> None:
    """Print what each method finds and, where the data set allows it, what it is sure of and recognises."""
    out.print(precision_table(figures))
    left_out = [f"{protocol} {number}" for protocol, number in figures.left_out.items() if number]
    if left_out:
        out.print(f"Queries left out, which have too few positives: {escape(', '.join(left_out))}.\n")
    recall = ("Recall@1", "Recall@5", "Recall@10")
    out.print(_table("Queries that have a right photo among the first k", figures.protocols, recall))
    if any(figures.without_positives.values()):
        sure = ("area", "recall@P90", "recall@P95")
        out.print(
            "All queries pooled by confidence, those that match nothing too: area under precision over "
            "recall, recall at 90 and 95 % precision"
        )
        out.print(_table("", figures.pooled, sure))
    if figures.recognition:
        out.print(_table("Landmarks recognised", {"": figures.recognition}, ("GAP", "accuracy")))


def precision_table(figures: Evaluation) -> Table:
    """A row for each method: mAP, what it gains on the row before, and mP@10 under each protocol."""
    table = _empty(f"{figures.dataset}: {figures.queries} queries, {figures.index} index photos")
    for protocol in figures.protocols:
        table.add_column(f"{escape(protocol)}\nmAP", justify="right", no_wrap=True)
        table.add_column("\ngain", justify="right", no_wrap=True, style="dim")
        table.add_column("\nmP@10", justify="right", no_wrap=True)
    table.add_column("\nseconds", justify="right", no_wrap=True)
    before: dict[str, float] = {}
    for method, scores, seconds in figures.rows():
        row = [method]
        for protocol, score in scores.items():
            gain = f"{score['mAP'] - before[protocol]:+.1f}" if protocol in before else ""
            row += [f"{score['mAP']:.1f}", gain, f"{score['mP@10']:.1f}"]
            before[protocol] = score["mAP"]
        table.add_row(*row, f"{seconds:.1f}")
    return table


def _table(
    title: str, protocols: Mapping[str, Mapping[str, Mapping[str, float]]], names: Sequence[str]
) -> Table:
    """Figures of these names, a row for each method and a group of columns for each protocol."""
    table = _empty(title, "\n" if any(protocols) else "")
    for protocol in protocols:
        for name in names:
            group = (escape(protocol) if name == names[0] else "") + ("\n" if any(protocols) else "")
            short = name.replace("Recall@", "R@").replace("recall@", "R@")
            table.add_column(group + short, justify="right", no_wrap=True)
    for method in next(iter(protocols.values())):
        table.add_row(
            method, *(f"{scores[method][name]:.1f}" for scores in protocols.values() for name in names)
        )
    return table


def _empty(title: str, above: str = "\n") -> Table:
    table = Table(title=escape(title) or None, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(f"{above}method", no_wrap=True)
    return table
