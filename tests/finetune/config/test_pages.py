"""The page on the configuration has every field as the models document it."""

from pathlib import Path

import rtool
from rtool.finetune.config.pages import commented_config, distil_reference, loss_reference, search_reference

PAGE = Path(rtool.__file__).parent / "docs" / "configuration.md"


def test_the_page_has_all_fields_and_losses_as_they_are_now():
    blocks = PAGE.read_text().split("```yaml\n")[1:]
    fields, losses, distil, search = (block.partition("```")[0] for block in blocks)
    assert fields == commented_config(), "put the output of `rtool config show` into docs/configuration.md"
    assert losses == loss_reference(), "put the output of `rtool config show --losses` into docs/configuration.md"
    assert distil == distil_reference(), "put the output of `rtool config show --distil` into docs/configuration.md"
    assert search == search_reference(), "put the output of `rtool config show --search` into docs/configuration.md"
