"""The operators as plain data are those that the lowering registers, and need no torch to be listed."""

from rtool.converters.lowering.families import ROWS_FILE, rows_source
from rtool.converters.lowering.registry import REGISTRY
from rtool.converters.operators.rows import ROWS
from rtool.converters.operators.support import FUSED_DOMAIN


def test_the_rows_are_those_that_the_lowering_registers():
    assert ROWS_FILE.read_text() == rows_source(), "run python -m rtool.converters.lowering.families"
    registered = [row for row in REGISTRY.rows() if row.domain != FUSED_DOMAIN]
    assert [(r.domain, r.operator, r.since, r.until, r.seen, r.trainable) for r in ROWS] == [
        (r.domain, r.operator, r.since, r.until, r.seen, r.trainable) for r in registered
    ]
