"""The commands of `rtool config` as Python calls: `rtool.config.show`, `rtool.config.init`, `rtool.config.convert`."""

from __future__ import annotations

from .finetune.config.calls import convert, init, show

__all__ = ["convert", "init", "show"]
