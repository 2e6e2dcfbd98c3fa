"""Everything that is known to be wrong with a repository, without a server: `serve --check` and `deploy --check`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..releases.advisories import EXEMPT
from ..repository.validation import validate_repository
from .release_check import DEFAULT_RELEASE, ReleaseFit, check_release

__all__ = ["CheckReport", "check"]


@dataclass(frozen=True)
class CheckReport:
    """The problems of a repository, those with the target release among them; `embedded` only informs."""

    problems: tuple[str, ...]
    target: ReleaseFit
    embedded: tuple[ReleaseFit, ...]
    """What the servers that rtool downloads would refuse."""


def check(
    repository: str | Path = "model_repository",
    models: Sequence[str] | None = None,
    *,
    target: str = DEFAULT_RELEASE,
    config_name: str | None = None,
) -> CheckReport:
    """Check `models` (by default all): configurations, graphs, warm-up, hashes, and what the release `target` reads.

    Raises:
        InputError: the repository is not a folder, has no model of a given name, or the release is not known.
    """
    fit = check_release(repository, models, release=target, config_name=config_name)
    embedded = (
        check_release(repository, models, release=release, config_name=config_name, embedded=True) for release in EXEMPT
    )
    problems = [str(problem) for problem in validate_repository(repository, models, config_name=config_name)]
    problems += [f"{repository}: Triton {target}: {problem}" for problem in fit.refused]
    return CheckReport(tuple(problems), fit, tuple(embedded))
