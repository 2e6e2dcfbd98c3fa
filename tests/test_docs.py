"""What the Markdown says is so: links lead somewhere, the map lists the files, figures are those measured."""

import ast
import re
from pathlib import Path

import pytest

import rtool

ROOT = Path(rtool.__file__).resolve().parent
PAGES = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "model_repository/README.md")]
PAGES += sorted((ROOT / "docs").glob("*.md")) + sorted((ROOT / "benchmarks/results").glob("*.md"))
ROOMS = ("converters", "finetune", "serving", "benchmarks", "cli")
FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def text_of(page: Path) -> str:
    """The page without its code blocks."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    return "\n".join(line for line in text.splitlines() if not line.startswith("    "))


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings as GitHub makes them."""
    headings = re.findall(r"^#+ +(.+)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading_that_exist(page: Path):
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text_of(page)):
        if target.startswith(("https://", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        other = (page.parent / name).resolve() if name else page
        if not other.exists() or (anchor and anchor not in anchors(other)):
            broken.append(target)
    assert not broken


def test_no_page_links_without_encryption():
    assert not [page.name for page in PAGES if "](http://" in page.read_text(encoding="utf-8")]


def test_every_case_names_a_test_that_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", (ROOT / "docs/cases.md").read_text(encoding="utf-8"))
    assert len(named) > 15
    for path, function in named:
        assert f"def {function}" in (ROOT / path).read_text(encoding="utf-8")


def files_in_map() -> list[str]:
    """`room/file.py` of every line of the map that describes a file, in its order."""
    folder, found = None, []
    for line in (ROOT / "docs/map.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            heading = line.lstrip("# ")
            package = heading == "The package"
            folder = "" if package else heading if heading.split("/")[0] in ROOMS else None
        elif folder is not None and (entry := re.match(r"- `(\w+\.py)`: \S", line)):
            found.append(f"{folder}/{entry[1]}".removeprefix("/"))
    return found


def files_in_tree() -> set[str]:
    files = [path for room in ROOMS for path in (ROOT / room).rglob("*.py")] + list(ROOT.glob("*.py"))
    return {path.relative_to(ROOT).as_posix() for path in files if path.name != "__init__.py"}


def suggested_line(file: str) -> str:
    """The room, and a line for the map made from the first sentence of the file's docstring."""
    text = ast.get_docstring(ast.parse((ROOT / file).read_text(encoding="utf-8"))) or ""
    room, _, name = file.rpartition("/")
    return f"{room or 'The package'}: - `{name}`: {' '.join(text.partition('.')[0].split())}."


def test_the_map_lists_every_source_file_once_and_no_other():
    listed = files_in_map()
    missing = sorted(files_in_tree() - set(listed))
    assert not missing, "add to docs/map.md, in plain words:\n" + "\n".join(map(suggested_line, missing))
    assert sorted(set(listed) - files_in_tree()) == [], "these are gone; remove them from docs/map.md"
    assert sorted({name for name in listed if listed.count(name) > 1}) == [], "listed twice in docs/map.md"


def test_the_map_orders_the_files_of_a_room_by_name():
    listed = files_in_map()
    for room in {name.rpartition("/")[0] for name in listed}:
        files = [name for name in listed if name.rpartition("/")[0] == room]
        assert files == sorted(files), room


def rows_of_table(page: Path, heading: str) -> list[list[str]]:
    """Cells of the first table below a heading, without its head."""
    below = page.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", below, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_each_of_the_ten_questions_is_answered_where_the_map_says():
    rows = rows_of_table(ROOT / "docs/map.md", "Ten questions")
    assert len(rows) == 10
    for _, file, shown in rows:
        assert file.strip("`") in files_in_tree()
        assert shown.strip(" `") in (ROOT / file.strip("`")).read_text(encoding="utf-8"), file
    assert {file.strip("`").split("/")[0] for _, file, _ in rows} == set(ROOMS)


def test_the_glossary_is_in_the_order_of_the_alphabet():
    words = re.findall(r"^- \*\*(.+?)\*\*: \S", (ROOT / "docs/glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(words) > 40
    assert words == sorted(words, key=str.lower)
    assert len(set(words)) == len(words)


def changes() -> list[tuple[str, str]]:
    """(section, line) of every change that is listed."""
    section, found = "", []
    for line in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("### "):
            section = line.removeprefix("### ")
        elif line.startswith("- "):
            found.append((section, line.removeprefix("- ")))
    return found


def test_the_changelog_has_the_sections_of_keep_a_changelog():
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    headings = [line for line in lines if line.startswith("#")]
    assert headings[:2] == ["# Changelog", "## Unreleased"]
    assert [line for line in headings if line.startswith("### ")][:3] == ["### Added", "### Changed", "### Fixed"]
    assert {section for section, _ in changes()} == {"Added", "Changed", "Fixed"}
    continued = [line for line in lines[lines.index("### Added") :] if line and not line.startswith(("- ", "#"))]
    assert not continued, "one line per change"


@pytest.mark.parametrize(("section", "change"), changes())
def test_a_change_is_one_sentence_of_at_most_twenty_words(section: str, change: str):
    assert len(change.split()) <= 20
    assert change.endswith(".")
    assert ". " not in change.replace("et al. ", "")
