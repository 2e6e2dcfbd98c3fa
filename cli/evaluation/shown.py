"""What `rtool evaluate` has measured so far, and how it is printed and written."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..output import Output, to_plain
from .rows import evaluation_rows
from .stage_progress import StageProgress

if TYPE_CHECKING:
    from ...finetune.embedding.embedders import Embedder
    from ...finetune.evaluation.measuring import Measured
    from ...finetune.evaluation.report.entries import MeasuredSet
    from ...finetune.evaluation.standalone.pair_evaluation import MeasuredPairs

__all__ = ["ShownEvaluation"]

_PAIR_FIGURES = ("accuracy", "accuracy_std", "auc", "eer", "same_pairs", "different_pairs")


class ShownEvaluation:
    """Sets are added as they are measured; `emit` prints them all."""

    def __init__(self, embedder: Embedder, model: str, against: str | None, folder: Path | None) -> None:
        """Prepare; what is written goes into `folder`, if there is one.

        Raises:
            InputError: the folder cannot be made.
        """
        from ...finetune.evaluation.report.folder import make_folder

        self._decision, self._model, self._against, self._folder = embedder.decision, model, against, folder
        self._sets: list[MeasuredSet] = []
        if folder is not None:
            make_folder(folder)

    def add(
        self,
        name: str,
        measured: Measured,
        other: Measured | None,
        progress: StageProgress,
        *,
        pairs: MeasuredPairs | None = None,
    ) -> None:
        """Keep a set, and say what it could not resolve."""
        from ...finetune.evaluation.comparison import compare_measured
        from ...finetune.evaluation.report.entries import MeasuredSet
        from ...finetune.evaluation.report.folder import write_values

        for line in getattr(measured.result, "warnings", ()) if pairs is None else pairs.warnings:
            click.echo(f"warning: {measured.dataset.name}: {line}", err=True)
        differences = () if other is None else compare_measured(measured, other, progress)
        self._sets.append(MeasuredSet(name, measured, differences, other, pairs))
        if self._folder is not None:
            write_values(self._folder, to_plain(self._values()))

    def emit(self, output: Output, roc: Path | None) -> None:
        """Print the table or JSON, and write the report."""
        if not self._sets:
            return
        artefact = roc
        if self._folder is not None:
            from ...finetune.evaluation.report.folder import write_report

            artefact = write_report(self._folder, self._sets, self._facts(), self._rows())
            pairs = {each.name: each.pairs for each in self._sets if each.pairs is not None}
            if pairs:
                from ...finetune.evaluation.standalone.pair_files import write_pair_files

                write_pair_files(self._folder, pairs, self._facts())
        briefs = [f"{each.name}{' ' if each.name else ''}{self._brief(each)}" for each in self._sets]
        brief = "" if artefact else "\n".join(briefs)
        output.emit(self._values(), self._rows(), artefact=artefact, brief=brief)

    def _values(self) -> dict[str, Any]:
        from ...finetune.evaluation.report.entries import all_values

        preprocessing = self._decision.preprocessing.to_dict()
        stated: dict[str, Any] = {"preprocessing": preprocessing, "preprocessing_origin": self._decision.reason}
        if self._against is not None:
            stated["compared_with"] = self._against
        return all_values(self._sets, stated)

    def _facts(self) -> dict[str, str]:
        """What the report says of the model."""
        facts = {"model": self._model, "preprocessing": str(self._decision)}
        if self._against is not None:
            facts["compared with"] = self._against
        return facts | {"command": shlex.join(["rtool", *sys.argv[1:]])}

    def _rows(self) -> list[tuple[str, str]]:
        from ...finetune.evaluation.report.entries import mean_values

        rows: list[tuple[str, str]] = []
        for each in self._sets:
            prefix = f"{each.name}." if each.name else ""
            if each.pairs is not None:
                rows += self._pair_rows(each.pairs, prefix)
                continue
            rows += evaluation_rows(each.values, prefix)
            rows += [(f"{prefix}{found.metric} against", str(found)) for found in each.differences]
        rows += evaluation_rows(mean_values(self._sets), "mean.")
        return [*rows, ("preprocessing", str(self._decision))]

    @staticmethod
    def _pair_rows(pairs: MeasuredPairs, prefix: str) -> list[tuple[str, str]]:
        """The figures of each score, its rates at the false accept rates asked, and how scores were combined."""
        from dataclasses import asdict

        from ...finetune.evaluation.standalone.pair_files import result_values

        values = result_values(pairs)
        rows = [(f"{prefix}pairs", values["pairs"]), (f"{prefix}masks", values["masks"])]
        for score, result in pairs.result.results.items():
            figures = asdict(result)
            rows += evaluation_rows({key: figures[key] for key in _PAIR_FIGURES}, f"{prefix}{score}.")
            for far, rate in values["scores"][score]["vr_at_far"].items():
                shown = rate["why"] if rate["vr"] is None else f"{rate['vr']:.4f}"
                beside = "" if rate["vr"] is None else f"  ({rate['impostors_that_may_pass']:,} impostor pairs pass)"
                rows.append((f"{prefix}{score}.VR at FAR {far}", shown + beside))
        if "combined" in values:
            rows += evaluation_rows({"combined": values["combined"]}, prefix)
        return rows

    @staticmethod
    def _brief(entry: MeasuredSet) -> str:
        metric, value = entry.main
        return f"{entry.values['protocol']}: {metric} {value:.4f}"
