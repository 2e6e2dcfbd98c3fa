"""The run folder: checkpoints, resuming, tracking, report, progress."""
