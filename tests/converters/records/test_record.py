"""One accessor for the conversion record and one for the facts on fx nodes; nobody else knows where they are kept."""

import ast
import copy
from pathlib import Path

import pytest
from torch import fx, nn

import rtool
from rtool.converters import onnx_to_torch
from rtool.converters.records.node_facts import NodeFacts, facts_of, set_facts
from rtool.converters.records.record import record_of, require_record
from rtool.errors import InputError

ROOT = Path(rtool.__file__).resolve().parent
OWNERS = {"converters/records/record.py", "converters/records/node_facts.py"}
RAW_KEYS = {"rtool", "scope", "unscoped", "classes", "onnx", "rank", "symbol", "nonnegative"}


def reads_meta(node: ast.AST) -> bool:
    """Whether an expression is `x.meta` or `getattr(x, "meta", ...)`."""
    if isinstance(node, ast.Attribute):
        return node.attr == "meta"
    arguments = [part.value for part in getattr(node, "args", ()) if isinstance(part, ast.Constant)]
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") == "getattr" and "meta" in arguments


def raw_accesses(tree: ast.AST) -> list[int]:
    """Lines that read or write one of our keys of a `meta` by hand."""
    lines = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Subscript):
            owner, keys = node.value, [node.slice]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner, keys = node.func.value, node.args[:1]
        else:
            continue
        named = {key.value for key in keys if isinstance(key, ast.Constant)}
        if reads_meta(owner) and named & RAW_KEYS:
            lines.append(node.lineno)
    return lines


def test_the_search_finds_every_idiom():
    idioms = ('m.meta["rtool"]', 'm.meta.get("rtool")', 'getattr(m, "meta", {}).get("rtool")', 'n.meta["scope"] = 1')
    assert all(raw_accesses(ast.parse(text)) == [1] for text in idioms)
    assert not raw_accesses(ast.parse('node.meta.get("val"); info["rtool"]; node.metadata_props.get("rtool")'))


def test_nobody_reads_the_record_or_the_facts_of_a_node_by_hand():
    rooms = [path for path in ROOT.iterdir() if not path.name.startswith(".")]
    paths = [*ROOT.glob("*.py"), *(path for room in rooms if room.is_dir() for path in room.rglob("*.py"))]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}
    found = {name: raw_accesses(ast.parse(text)) for name, text in texts.items() if "meta" in text}
    assert texts.keys() >= OWNERS
    assert {name: lines for name, lines in found.items() if lines and name not in OWNERS} == {}


@pytest.fixture
def module(exported) -> fx.GraphModule:
    return onnx_to_torch(exported("cnn", "ts", 17)[1])


def test_a_module_of_another_origin_has_no_record():
    assert record_of(nn.Linear(2, 2)) is None
    with pytest.raises(InputError, match="was not converted from ONNX by rtool"):
        require_record(nn.Linear(2, 2))


def test_a_copy_of_a_module_has_a_record_of_its_own(module: fx.GraphModule):
    twin = copy.deepcopy(module)
    require_record(twin).source = "other.onnx"
    assert require_record(module).source == "<memory>"
    assert record_of(module) is require_record(module)


def test_facts_survive_a_copy_of_the_graph_and_are_empty_where_nobody_stated_them(module: fx.GraphModule):
    first = next(node for node in module.graph.nodes if node.op == "call_module")
    assert facts_of(first).onnx_node
    twin = copy.deepcopy(module)
    assert [facts_of(node) for node in twin.graph.nodes] == [facts_of(node) for node in module.graph.nodes]
    with module.graph.inserting_after(first):
        added = module.graph.call_function(nn.functional.relu, (first,))
    assert facts_of(added) == NodeFacts()
    set_facts(added, NodeFacts(rank=2))
    assert facts_of(added).rank == 2
