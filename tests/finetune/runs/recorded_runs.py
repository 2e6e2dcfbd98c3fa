"""The folder of a run, and what is in it."""

from pathlib import Path


def run_of(recipe: Path) -> Path:
    (run,) = (recipe.parent / "runs" / "tiny").iterdir()
    return run


def files_of(run: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in run.glob("*config*")}
