"""Makes links of checkpoints links again in a run folder that was copied by something that follows them.

`scp -r`, `cp -rL` and object stores write `last.rtool` and `best.rtool` as folders of their own. Such a run can be
read, but a resumed run moves its links.
"""

from __future__ import annotations

import filecmp
import os
import shutil
from pathlib import Path

from .checkpoints import checkpoint_name, link_checkpoint, load_progress

__all__ = ["restore_links"]

_LINKS = ("last.rtool", "best.rtool")


def restore_links(folder: Path, checkpoint: Path) -> Path:
    """Replace copies that stand in the place of links in a run's `checkpoints/` by links.

    Args:
        folder: the folder; nobody else writes into it.
        checkpoint: the checkpoint to resume from.

    Returns:
        The same checkpoint, under the name that it has now.

    Raises:
        InputError: a copy is not a checkpoint.
    """
    for name in _LINKS:
        copy = folder / name
        if not copy.is_dir() or copy.is_symlink():
            continue
        step = load_progress(copy).step
        twin = next((path for path in sorted(folder.glob(f"step-{step:08d}*.rtool")) if _same(path, copy)), None)
        if twin is None:
            twin = folder / checkpoint_name(folder, step)
            os.replace(copy, twin)
        else:
            hidden = folder / f".step-{step:08d}-{name}.partial"  # a name that the next start removes after a kill
            os.replace(copy, hidden)
            shutil.rmtree(hidden)
        link_checkpoint(copy, twin.name)
        checkpoint = twin if checkpoint in (copy, copy.resolve()) else checkpoint
    return checkpoint


def _same(one: Path, other: Path) -> bool:
    """Whether two folders hold the same files."""
    names = sorted(path.name for path in one.iterdir())
    if names != sorted(path.name for path in other.iterdir()):
        return False
    return not any(filecmp.cmpfiles(one, other, names, shallow=False)[1:])
