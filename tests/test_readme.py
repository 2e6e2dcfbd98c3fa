"""README says what is so: commands take their options, outputs and figures are those measured, rooms are all there."""

import importlib.util
import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest

import rtool
from rtool import errors
from rtool.cli import main

ROOT = Path(rtool.__file__).resolve().parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks/results"
DEMO_MODEL = "examples/models/osnet_x0_25_synthetic.onnx"
ROOMS = ("converters", "finetune", "serving", "benchmarks", "cli")


def table_below(heading_row: str) -> list[list[str]]:
    """Cells of the table whose head is `heading_row`."""
    lines = README.split(heading_row + "\n", 1)[1].splitlines()[1:]
    rows = lines[: next(index for index, line in enumerate(lines) if not line.startswith("|"))]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in rows]


def commands_shown() -> list[str]:
    """Every command line of rtool in README: in code blocks, with continued lines joined, and in the table."""
    joined = README.replace(" \\\n", " ")
    blocks = re.findall(r"^ {4}(?:\$ )?(rtool .*)$", joined, re.MULTILINE)
    return [*blocks, *(row[2].strip(" `|") for row in table_below("| command | what it does | an example |"))]


def leaves(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from leaves(command, (*path, name))
        else:
            yield " ".join((*path, name))


@pytest.mark.parametrize("line", sorted(set(commands_shown())))
def test_every_command_line_is_one_that_the_command_line_takes(line: str):
    words = shlex.split(line)[1:]
    command: click.Command = main.cli
    context = None
    while isinstance(command, click.Group):
        name = words.pop(0)
        assert name in command.commands
        command = command.commands[name]
    context = command.make_context(line, words)
    assert context.args == []


def test_the_table_of_commands_has_every_command():
    rows = [row[0].strip("`") for row in table_below("| command | what it does | an example |")]
    assert sorted(rows) == sorted(leaves(main.cli))


def test_exit_codes_are_those_of_the_errors():
    codes = [int(row[0]) for row in table_below("| exit code | meaning |")]
    assert codes == [0, errors.GateError.exit_code, errors.RtoolError.exit_code, main._BUG, 130]
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.RtoolError)]
    assert {kind.exit_code for kind in kinds} == {1, 2}


def test_ctrl_c_is_exit_code_130(monkeypatch):
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main.cli, "main", interrupt)
    assert main.run([]) == 130


def test_every_room_is_in_the_map_once_and_no_other():
    rows = [row[0].strip("`").rstrip("/") for row in table_below("| room | what is in it |")]
    rooms = {path.parent.relative_to(ROOT).as_posix() for room in ROOMS for path in (ROOT / room).rglob("__init__.py")}
    assert len(rows) == len(set(rows))
    assert sorted(rooms - set(rows)) == [], "add a row to the map of README for each"
    assert sorted(set(rows) - rooms) == []


def test_every_file_named_exists():
    named = re.findall(
        r"`((?:converters|finetune|serving|benchmarks|cli|tests|examples|model_repository|docs)/[^` ]*)`", README
    )
    assert len(named) > 40
    assert [name for name in named if not (ROOT / name.removesuffix("/")).exists()] == []


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("converters/lowering/registry.py", ["def lowers("]),
        ("converters/lowering/families.py", ["FAMILIES = ("]),
        ("converters/lowering/operation.py", ["def refuse("]),
        ("converters/operators/refusals.py", ["_REASONS"]),
        ("finetune/config/losses.py", ["LossConfig = ", "(Section):"]),
        ("finetune/losses/heads.py", ["def build_head("]),
        ("finetune/data/formats/sources.py", ["_FILES:", "def _open_folder(", "_GENERATORS:"]),
        ("converters/zoo/registry.py", ["ZOO:", "_VALUES:"]),
        ("cli/main.py", ["cli.add_command("]),
        ("tests/test_public_calls.py", ["CALLS:"]),
    ],
)
def test_what_to_add_something_to_is_where_readme_says(file: str, names: list[str]):
    assert file.split("/")[-1] in README
    text = (ROOT / file).read_text(encoding="utf-8")
    assert all(name in text for name in names)


def block_after(command: str) -> str:
    """The lines printed below a command in README."""
    lines = README.split(f"    $ {command}\n", 1)[1].splitlines()
    end = next(index for index, line in enumerate(lines) if not line.startswith("    ") or line.startswith("    $"))
    return "\n".join(line.removeprefix("    ") for line in lines[:end])


def test_inspect_prints_what_readme_shows(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main.run(["inspect", DEMO_MODEL]) == 0
    assert block_after(f"rtool inspect {DEMO_MODEL}") == capsys.readouterr().out.rstrip("\n")


def test_the_model_of_the_demo_scores_what_readme_shows(monkeypatch):
    monkeypatch.chdir(ROOT)
    people = "synthetic-people:identities=60,seed=12,cameras=1"
    shown = dict(line.split()[:2] for line in block_after(f"rtool evaluate {DEMO_MODEL} {people}").splitlines()[:3])
    result = rtool.evaluate(DEMO_MODEL, people)
    assert float(shown["mAP"]) == pytest.approx(result.mAP, abs=0.002)
    assert float(shown["rank1"]) == pytest.approx(result.rank1, abs=0.01)


def test_about_190_operators_convert():
    stated = int(re.search(r"about (\d+), with their opsets", README)[1])
    assert round(len(rtool.ops().operators), -1) == stated


def demo_tables(summary: dict[str, Any]) -> str:
    """Parity and quality of a stored run of `rtool demo` as Markdown."""
    lines = ["| hop | max relative error | min cosine | tolerance | verdict |", "|---|---|---|---|---|"]
    for hop in summary["hops"]:
        cells = (f"{hop['max_rel']:.2e}", f"{hop['min_cosine']:.7f}", hop["tolerance"])
        lines.append(f"| {hop['name']} | {' | '.join(cells)} | {'passed' if hop['passed'] else 'FAILED'} |")
    lines += ["", "| on people under the other cameras | mAP | rank-1 |", "|---|---|---|"]
    for name in ("before", "after"):
        quality = summary[name]
        lines.append(f"| {name} fine-tuning | {quality['mean_average_precision']:.1%} | {quality['rank1']:.1%} |")
    return "\n".join(lines)


def test_the_tables_of_the_demo_are_rendered_from_its_stored_figures():
    (file,) = set(re.findall(r"`benchmarks/results/(\S+-demo\.json)`", README))
    summary = stored(file)
    assert summary["passed"]
    assert demo_tables(summary) in README, f"put this into README:\n{demo_tables(summary)}"


def stored(name: str) -> Any:
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def restoring_gains() -> tuple[str, ...]:
    gains = stored("2026-11-30-restoring-value.json")["summary"]["gain_over"]
    return tuple(f"{100 * gain:.0f} points" for gain in sorted(gains.values()))


def conformance() -> tuple[str, ...]:
    table = (RESULTS / "2026-11-30-onnx-conformance.md").read_text(encoding="utf-8")
    cases, passed, refused, wrong, _ = re.search(r"^\| node \| (.+) \|$", table, re.MULTILINE)[1].split(" | ")
    return f"{cases} node cases", f"{passed} convert", f"{refused} are refused", f"{wrong} are wrong"


def rounding() -> tuple[str, ...]:
    table = stored("2026-11-29-operator-rounding.json")
    judged = [row["within"] for row in table["operators"] if row["within"] is not None]
    return f"{len(judged)} operators", f"{sum(judged)} keep"


def conversion_time() -> tuple[str, ...]:
    table = (RESULTS / "2026-11-30-converters.md").read_text(encoding="utf-8")
    size, seconds = re.search(
        r"^\| iresnet100, opset 11, (\d+ MB) \| rtool \| ([\d.]+) \|", table, re.MULTILINE
    ).groups()
    others = [float(times) for times in re.findall(r"opset 11, \d+ MB \| (?!rtool)\w+ \| [\d.]+ \| ([\d.]+)", table)]
    return f"opset 11, {size}", f"in {seconds} s", f"{min(others):.1f} to {max(others):.0f} times faster"


def int8_of_iresnet50() -> tuple[str, ...]:
    (row,) = [row for row in stored("2026-11-30-int8.json")["rows"] if row["network"] == "iresnet50"]
    ratio = row["latency"]["ratios"]["int8"]["float32"][0]
    return f"takes {ratio:.2f} of float32's time", f"at {row['size']:.2f} of its size"


def int8_training() -> tuple[str, ...]:
    runs = stored("2026-11-30-int8-training.json")["runs"].values()
    trained, calibrated = ([run[kind]["least_cosine"] for run in runs] for kind in ("trained", "calibrated"))
    return (
        f"least cosine {min(trained):.3f} to {max(trained):.3f}",
        f"on {next(iter(runs))['images_unseen']} images drawn afterwards, {len(runs)} seeds",
        f"{min(calibrated):.3f} to {max(calibrated):.3f} by calibration alone",
    )


def embedding() -> tuple[str, ...]:
    result = stored("2026-11-30-embed.json")
    return f"of {result['images']} JPEG files", f"takes {result['ratio']:.2f} times"


def lost_code() -> tuple[str, ...]:
    result = stored("2026-11-30-lost-code.json")["result"]
    people, faces, new_people, new_faces = (
        f"{result[f'{name}{suffix}']['mean_ratio']:.2f}"
        for suffix in (", calibrated on old images", "")
        for name in ("people", "faces")
    )
    return f"people reach {people} times", f"faces {faces} times", f"{new_people} and {new_faces} times"


def int8_of_the_demo() -> tuple[str, ...]:
    rows = stored("2026-11-27-int8.json")["fresh_people"]["rows"]
    methods = {row["method"] for row in rows}
    kept = [name for name in methods if not any(row["below_0.99"] for row in rows if row["method"] == name)]
    images = sum(row["images"] for row in rows if row["method"] == kept[0])
    return f"{images} images", f"only `--calibration {kept[0]}`" if len(kept) == 1 else "no single method"


@pytest.mark.parametrize(
    ("beginning", "figures"),
    [
        ("- Restoring BatchNorm is worth", restoring_gains),
        ("- Of ONNX's", conformance),
        ("- Of the 86", rounding),
        ("- iresnet100 of", conversion_time),
        ("- Losing the training code", lost_code),
        ("- int8: iresnet50", int8_of_iresnet50),
        ("- `rtool distil MODEL int8`", int8_training),
        ("- `embed` of", embedding),
        ("- int8 of the demo's model", int8_of_the_demo),
    ],
)
def test_a_figure_is_the_stored_one(beginning: str, figures):
    sentence = re.search(rf"^{re.escape(beginning)}(?:.|\n(?=  ))*", README, re.MULTILINE)[0]
    text = " ".join(sentence.split()).replace(" of mAP", "")
    assert [figure for figure in figures() if figure not in text] == []
    file = re.search(r"`([\w.-]+)`(?:, `make [\w-]+`)?\)\.$", text)[1]
    assert (RESULTS / file).is_file()


def test_no_figure_stands_outside_the_list_that_is_compared():
    listed = README.split("## Figures\n", 1)[1].split("| command |", 1)[0]
    assert listed.count("\n- ") == 11


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_every_make_target_and_module_named_exists(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = {word for words in re.findall(r"(?:`| {4})make ((?:[a-z-]+ ?)+)", text) for word in words.split()}
    assert named
    assert named <= targets
    for module in re.findall(r"python -m (rtool\.[\w.]+)", text):
        assert importlib.util.find_spec(module), module


def main_job() -> list[tuple[str, list[str]]]:
    """The commands of the main job with the lines that README shows below each, in order."""
    section = README.split("## The main job", 1)[1].split("\n## ", 1)[0].replace(" \\\n       ", "")
    found: list[tuple[str, list[str]]] = []
    for line in re.findall(r"^ {4}(.+)$", section, re.MULTILINE):
        if line.startswith("$ "):
            found.append((line.removeprefix("$ rtool "), []))
        else:
            found[-1][1].append(line)
    return found


NUMBER = re.compile(r"\d[\d.]*(?:e-\d+)?")


def matches(shown: str, printed: str) -> bool:
    """The same line; rounding errors within a factor of ten, and cosines near 1, differ between machines."""
    if NUMBER.sub("#", shown) != NUMBER.sub("#", printed):
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(a == b or ("e-" in a and 0.1 < float(a) / float(b) < 10) or a.startswith("0.999") for a, b in pairs)


@pytest.mark.slow
@pytest.mark.timeout(3000)  # it trains for minutes, and more where others use the machine
def test_the_main_job_runs_as_readme_shows_it(tmp_path, monkeypatch, capsys):
    """All commands but `serve` and those that need it, which tests/serving makes; two epochs of training, a minute."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    run = ""
    for command, shown in main_job():
        if command.startswith(("serve", "$ ")) or "triton://" in command:  # a port of one's own, which may be in use
            continue
        assert main.run([run if word == "RUN" else word for word in shlex.split(command)]) == 0, command
        printed = capsys.readouterr().out.splitlines()
        if command.startswith("finetune"):
            run = printed[-1]
            continue
        missing = [line for line in shown if line != "..." and not any(matches(line, other) for other in printed)]
        assert not missing, command
    assert (tmp_path / "model_repository/osnet_b16/1/model.onnx").is_file()


def test_the_comparison_of_float16_converters_and_the_seconds_to_start_are_those_measured():
    outcomes = stored("2026-11-30-half-converters.json")["outcomes"]
    passed = [
        sum(o["passed"] for o in outcomes if o["converter"] == name) for name in ("rtool", "onnxconverter-common")
    ]
    assert f"of {len(outcomes) // 2} files" in README
    assert f"own converts {passed[0]} behind the gate, `onnxconverter-common` {passed[1]};" in README
    slowest = max(row["wall"] for row in stored("2026-11-30-startup.json")["commands"])
    assert slowest <= float(README.split("answer in at most ")[1].split(" s\n")[0])
