"""What the demo measured, from which its tables, its JSON file and its report are made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from ..compare import ParityReport
    from ..load import LoadReport
    from ..timing import LatencyRow

__all__ = ["DemoSummary", "Hop", "Quality", "summary_tables"]


@dataclass(frozen=True)
class Hop:
    """One step of the flow: the models before and after it, compared on the same inputs.

    `max_rel` is the largest absolute difference over the largest absolute output, `min_cosine` the smallest per row.
    """

    name: str
    max_abs: float
    max_rel: float
    min_cosine: float
    tolerance: str
    passed: bool

    @classmethod
    def from_report(cls, name: str, report: ParityReport) -> Hop:
        """The hop measured by `report`, with its tolerances as text."""
        asked = []
        if report.max_rel is not None:
            asked.append("identical" if report.max_rel == 0 else f"relative error <= {report.max_rel:g}")
        if report.min_cosine is not None:
            asked.append(f"cosine >= {report.min_cosine:g}")
        numbers = report.parity
        return cls(name, numbers.max_abs, numbers.max_rel, numbers.min_cosine, ", ".join(asked), report.passed)


@dataclass(frozen=True)
class Quality:
    """Retrieval under the target cameras: mAP and rank-1, both 0..1."""

    mean_average_precision: float
    rank1: float


@dataclass(frozen=True)
class DemoSummary:
    """All figures of one run; `distilled` is the student's.

    `seconds` maps steps to their time; latencies are in milliseconds.
    """

    source: str
    hops: tuple[Hop, ...]
    before: Quality
    after: Quality
    distilled: Quality
    latency: tuple[LatencyRow, ...]
    serving: LoadReport
    seconds: dict[str, float]
    artefacts: dict[str, str]
    machine: dict[str, object]
    required_gain: float

    @property
    def gain(self) -> float:
        """Mean average precision gained by fine-tuning, -1..1."""
        return self.after.mean_average_precision - self.before.mean_average_precision

    @property
    def passed(self) -> bool:
        """Whether every hop is within its tolerance and the gain is at least `required_gain`."""
        return all(hop.passed for hop in self.hops) and self.gain >= self.required_gain


def summary_tables(summary: DemoSummary) -> list[Table]:
    """The summary as rich tables: hops, quality, speed."""
    from rich.table import Table

    hops = Table("hop", "max relative error", "min cosine", "tolerance", "verdict", title="Parity at every hop")
    for hop in summary.hops:
        verdict = "[green]passed[/]" if hop.passed else "[red]FAILED[/]"
        hops.add_row(hop.name, f"{hop.max_rel:.2e}", f"{hop.min_cosine:.7f}", hop.tolerance, verdict)
    quality = Table("model", "mAP", "rank-1", title="Retrieval under the target cameras")
    for name, value in (("before", summary.before), ("after fine-tuning", summary.after)):
        quality.add_row(name, f"{value.mean_average_precision:.1%}", f"{value.rank1:.1%}")
    quality.add_row("gain", f"{100 * summary.gain:+.1f} points", "")
    student = summary.distilled
    name = "distilled student, half the resolution, no labels"
    quality.add_row(name, f"{student.mean_average_precision:.1%}", f"{student.rank1:.1%}")
    speed = Table("model", "p50 ms", "p99 ms", "crops/s", title="Speed at batch 16")
    for row in summary.latency:
        speed.add_row(row.model, f"{row.p50:.1f}", f"{row.p99:.1f}", f"{row.samples_per_second:.0f}")
    load = summary.serving
    speed.add_row(f"Triton, {load.mode}", f"{load.p50:.1f}", f"{load.p99:.1f}", f"{load.crops_per_second:.0f}")
    return [hops, quality, speed]
