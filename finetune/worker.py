"""One training process of several, `python -m rtool.finetune.worker RUN_FOLDER [CHECKPOINT]`; `launching` starts it."""

from __future__ import annotations

import sys
from pathlib import Path

from ..errors import RtoolError
from .config_files import load_config
from .finetuning import train_in_folder
from .launching import report_failure

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Train in the run folder, resuming when a checkpoint is named; the process's exit code."""
    run = Path(arguments[0])
    resume = Path(arguments[1]) if len(arguments) > 1 else None
    try:
        train_in_folder(load_config(run / "config.yaml"), run, resume)
    except RtoolError as error:
        report_failure(run, error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
