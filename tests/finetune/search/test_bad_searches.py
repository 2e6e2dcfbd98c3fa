"""What cannot be searched, through the command: exit code 2, the cause and the way out, no traceback."""

import json

import pytest
from PIL import Image

from rtool.cli.main import run

HIGH = "model.size=[48,24]"


def refuse(capsys, *arguments: str) -> str:
    code = run([*arguments, "-q"])
    printed = capsys.readouterr()
    assert (code, printed.out) == (2, "")
    assert printed.err.startswith("Error: ")
    assert "Traceback" not in printed.err
    return printed.err


@pytest.mark.parametrize(
    ("changes", "mentioned"),
    [
        (["search.operations=[none, sep33]"], "unknown operation 'sep33'; did you mean sep3"),
        (["search.operations=[sep3]"], "there is nothing to choose"),
        (["search.operations=[sep3, sep3]"], "named twice"),
        (["search.cells=2"], "'search.cells': input should be greater than or equal to 3"),
        (["search.stem=stride2"], "'search.stem'"),
        (["search.method=sampled", "search.order=2"], "order 2 with method sampled"),
        (["search.method=sampled", "search.guard=noise"], "guard noise: changes mixed weights"),
        (["search.method=partial", "search.channels=6"], "channels 6: method partial needs a multiple of 4"),
        (["search.order=2", "optimizer.kind=adamw"], "search.order 2: follows the step of plain sgd, not adamw"),
        (["search.order=2", "optimizer.nesterov=true"], "not sgd with nesterov"),
        (["search.order=2", "optimizer.accumulate=2"], "follows a step over one batch"),
        (["search.cost.weight=1"], "cost.weight: needs cost.table and cost.target_ms"),
        (["search.split=1.0"], "'search.split': input should be less than 1"),
        (["search.mathod=mixed"], "unknown key 'search.mathod'; did you mean method"),
        (["model.reference=osnet_x0_25"], "a search builds its own network; set it to searched"),
        (["model.options={cells: 3}"], "model.options: the section search says what the network is"),
        (["optimizer.ema=0.9"], "optimizer.ema: alpha follows the weights themselves"),
        (["precision=fp16"], "precision fp16: gradients of alpha are not scaled; use bf16 or fp32"),
        (["losses=[{kind: partial_fc}]"], "partial_fc updates its rows itself"),
        (["distil={teachers: a.onnx}"], "distil: a search learns from labels"),
        (["data.batch=1", "data.sampler=random", "losses=[{kind: softmax}]"], "set data.batch=2 or more"),
        (["search.operations=[none, part, sep3]", HIGH], "model.size: images 48 pixels high leave the last cell fewer"),
        (["search.cost.table=no.json"], "search.cost.table: no.json: no such latency table"),
        (["data.train=synthetic-people:identities=3,images=8,seed=1,size=32x16"], "cannot be shared between training"),
    ],
)
def test_what_cannot_be_searched_is_refused_with_the_way_out(search_recipe, capsys, changes, mentioned):
    recipe = search_recipe()
    assert mentioned in refuse(capsys, "search", str(recipe), *changes)
    assert mentioned in refuse(capsys, "finetune", str(recipe), *changes, "--dry-run")


def test_an_identity_of_one_image_cannot_be_split(search_recipe, capsys, tmp_path):
    for person, count in enumerate([4, 4, 1, 4, 4, 4]):
        folder = tmp_path / "people" / f"p{person}"
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (16, 32), (40 * person, 60 * number, 9)).save(folder / f"{number}.png")
    changes = [f"data.train={tmp_path / 'people'}", "data.sampler=random", "losses=[{kind: softmax}]"]
    message = refuse(capsys, "search", str(search_recipe()), *changes)
    assert "1 of 6 identities have one image" in message
    assert "p2" in message
    assert "data.min_images=2" in message
    assert message.strip() == refuse(capsys, "search", str(search_recipe()), *changes, "--dry-run").strip()


@pytest.mark.parametrize(
    ("content", "mentioned"),
    [
        ("{", "not a genotype"),
        (json.dumps({"schema": 2}), "genotype of schema 2; this rtool reads schema 1"),
        (json.dumps({"schema": 1}), "a genotype needs 'operations', which is missing"),
    ],
)
def test_a_genotype_of_another_kind_is_refused(search_recipe, capsys, tmp_path, content, mentioned):
    genotype = tmp_path / "genotype.json"
    genotype.write_text(content)
    changes = ["search=null", f"model={{reference: searched, options: {{genotype: {genotype}}}}}"]
    assert mentioned in refuse(capsys, "finetune", str(search_recipe()), *changes)


def test_a_searched_network_needs_its_genotype(search_recipe, capsys):
    assert "needs option genotype" in refuse(capsys, "finetune", str(search_recipe()), "search=null")


def test_few_images_per_process_are_named_in_the_plan(search_recipe, capsys):
    assert run(["search", str(search_recipe()), "--dry-run"]) == 0
    assert "data.batch 8: BatchNorms of a search" in " ".join(capsys.readouterr().out.split())
