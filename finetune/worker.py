"""One of several training processes, `python -m rtool.finetune.worker RUN_FOLDER`; `launching` starts it."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..errors import RtoolError
from .config.files import load_config
from .finetuning import train_in_folder
from .processes.child_processes import end_with_parent

__all__ = ["main"]


def main(arguments: list[str]) -> int:
    """Train in the run folder, from a checkpoint if one is named, and return the exit code of the process."""
    parser = argparse.ArgumentParser(prog="rtool.finetune.worker")
    parser.add_argument("run", type=Path)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--quiet", action="store_true")
    parser.add_argument("--no-progress", action="store_true")
    options = parser.parse_args(arguments)
    run: Path = options.run
    end_with_parent()
    try:
        train_in_folder(
            load_config(run / "config.yaml"),
            run,
            options.checkpoint,
            quiet=options.quiet,
            progress=not options.no_progress,
        )
    except RtoolError as error:  # reported already
        return error.exit_code
    return 0


if __name__ == "__main__":
    code = main(sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is written. Threads of gloo that outlive the interpreter sometimes abort it (pytorch issue 190489), and
    # torchrun would report a finished run as failed.
    os._exit(code)
