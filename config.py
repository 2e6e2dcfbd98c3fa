"""The commands of `rtool config` as Python calls: `rtool.config.show`, `check`, `init` and `convert`."""

from __future__ import annotations

from .finetune.config.calls import check, convert, init, show

__all__ = ["check", "convert", "init", "show"]
