"""Exported programs: what torch saved opens to the same numbers, and what could run code is refused before it does."""

import io
import json
import re
import warnings
import zipfile

import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from rtool.converters.files.torch_archives.archive import pack
from rtool.converters.files.torch_archives.expressions import TextError, check_expression, check_guard, check_tree
from rtool.converters.files.torch_archives.operators import is_allowed_target
from rtool.converters.files.torch_archives.programs import load_program
from rtool.errors import InputError


class Mixed(nn.Module):
    """Tied and expanded weights, empty and lost buffers, a constant, guards, nested graphs, a dictionary of outputs."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.second = self.first
        self.register_buffer("expanded", torch.ones(1).expand(3))
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("lost", torch.ones(2), persistent=False)
        self.offset = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def forward(self, x, y=None):
        x = x + 1 if x.shape[0] % 2 == 0 else x
        with torch.no_grad():
            z = self.first(x)
        with torch.autocast("cpu", torch.bfloat16):
            z = self.second(z)
        z = nn.functional.interpolate(z[None, None].float(), size=(x.shape[0] * 2, 4), mode="bilinear")[0, 0]
        return {"a": z + self.offset, "b": (x, x.reshape(-1, x.shape[0] // 2).sum() + y.sum() + self.lost.sum())}


def saved(module, args, kwargs=None, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module.eval(), args, kwargs=kwargs, **options)
        file = io.BytesIO()
        torch.export.save(program, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def mixed():
    size = torch.export.Dim("half", min=2, max=64)
    return saved(Mixed(), (torch.randn(6, 4),), {"y": torch.ones(2)}, dynamic_shapes={"x": {0: 2 * size}, "y": None})


def records(content):
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def changed(content, **edits):
    """The archive with some records replaced (None: removed), written as torch's own."""
    found = records(content)
    for name, value in edits.items():
        found[name] = value
    return pack({name: value for name, value in found.items() if value is not None}).getvalue()


def program_with(content, edit):
    tree = json.loads(records(content)["models/model.json"])
    edit(tree)
    return changed(content, **{"models/model.json": json.dumps(tree).encode()})


def test_a_program_with_guards_nested_graphs_and_odd_buffers_opens_to_the_same_numbers(tmp_path, mixed):
    path = tmp_path / "mixed.pt2"
    path.write_bytes(mixed)
    program, module, _ = load_program(path)
    ours, theirs = module, torch.export.load(io.BytesIO(mixed)).module()
    assert ours.code == theirs.code
    x, y = torch.randn(12, 4), torch.ones(2)
    for one, other in zip(pytree.tree_leaves(ours(x, y=y)), pytree.tree_leaves(theirs(x, y=y)), strict=True):
        assert torch.equal(one, other)
    with pytest.raises((AssertionError, RuntimeError), match="Guard failed"):
        ours(torch.randn(7, 4), y=y)
    assert program.state_dict["expanded"].stride() == (0,)


@pytest.mark.parametrize("samples", ["kept", "missing"])
def test_a_dynamic_batch_opens_with_and_without_sample_inputs(tmp_path, samples):
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    content = saved(module, (torch.randn(2, 3, 8, 8),), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
    if samples == "missing":
        content = changed(content, **{"data/sample_inputs/model.pt": None})
    path = tmp_path / "model.pt2"
    path.write_bytes(content)
    images = torch.randn(5, 3, 8, 8)
    assert torch.equal(load_program(path)[1](images), module(images))


def test_sample_inputs_that_ask_for_code_are_refused(tmp_path, mixed):
    inner = records(records(mixed)["data/sample_inputs/model.pt"])
    inner["data.pkl"] = b"cos\nsystem\n(X\x04\x00\x00\x00truetR."
    path = tmp_path / "evil.pt2"
    path.write_bytes(changed(mixed, **{"data/sample_inputs/model.pt": pack(inner).getvalue()}))
    with pytest.raises(InputError, match=r"sample inputs are not plain tensors.*os\.system"):
        load_program(path)


def set_target(target):
    def edit(tree):
        tree["graph_module"]["graph"]["nodes"][0]["target"] = target

    return edit


def set_sizes(tree):
    name = next(iter(tree["graph_module"]["graph"]["sym_int_values"]))
    expression = "Symbol('s0').__class__"
    tree["graph_module"]["graph"]["sym_int_values"][name]["as_expr"]["expr_str"] = expression


def set_guard(tree):
    tree["guards_code"] = ["__import__('os').system('true')"]


def set_name(tree):
    tree["graph_module"]["graph"]["nodes"][0]["outputs"] = [{"as_tensor": {"name": "x\nimport os"}}]


def set_tree(tree):
    spec = '[1, {"type": "collections.defaultdict", "context": "{}", "children_spec": []}]'
    tree["graph_module"]["module_call_graph"][0]["signature"]["out_spec"] = spec


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (set_target("torch.hub.load"), "expected an operator"),
        (set_target("torch.ops.aten.from_file.default"), "expected an operator"),
        (set_target("#higher:system"), "expected an operator"),
        (set_sizes, "Attribute"),
        (set_guard, "is not a condition|asks for"),
        (set_name, "expected a name"),
        (set_tree, "defaultdict"),
        (lambda tree: tree["graph_module"].update(treespec_namedtuple_fields={"a": {"field_names": []}}), "named tup"),
    ],
    ids=["hub", "from_file", "extension", "size", "guard", "name", "tree", "namedtuple"],
)
def test_a_program_that_reaches_beyond_tensors_is_refused(tmp_path, mixed, edit, message):
    path = tmp_path / "evil.pt2"
    path.write_bytes(program_with(mixed, edit))
    with pytest.raises(InputError, match=message):
        load_program(path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("data/aotinductor/model/model.so", b"\x7fELF"),
        ("data/weights/model.pt", b"legacy"),
        ("models/other.json", b"{}"),
        ("data/constants/custom_obj_0", b"pickle"),
    ],
)
def test_records_beside_the_program_are_refused_by_name(tmp_path, mixed, name, content):
    path = tmp_path / "evil.pt2"
    path.write_bytes(changed(mixed, **{name: content}))
    with pytest.raises(InputError, match=re.escape(name)):
        load_program(path)


def test_a_weight_longer_than_its_record_is_refused(tmp_path, mixed):
    config = json.loads(records(mixed)["data/weights/model_weights_config.json"])
    config["config"]["first.weight"]["tensor_meta"]["sizes"] = [{"as_int": 4}, {"as_int": 1 << 40}]
    path = tmp_path / "evil.pt2"
    path.write_bytes(changed(mixed, **{"data/weights/model_weights_config.json": json.dumps(config).encode()}))
    with pytest.raises(InputError, match=r"first\.weight"):
        load_program(path)


@pytest.mark.parametrize(
    "text",
    [
        "().__class__", "__import__('os')", "Symbol('s0; x')", "lambda: 0", "preview(s0)",
        "Pow(Integer(9), Integer(99))",
        "9**9**9", "s0 if s1 else s2",
        "[s0]", "S(s0)", "Integer('1')", "Symbol('s0', cls=s0)", "Abs(" * 80 + "s0" + ")" * 80,
        "evalf", "f's0'", "Float('__import__')",
    ],
)  # fmt: skip
def test_sizes_that_are_no_arithmetic_are_refused(text):
    with pytest.raises(TextError):
        check_expression(text)


@pytest.mark.parametrize(
    "text",
    [
        "Mul(Integer(2), Symbol('s77', positive=True, integer=True))", "FloorDiv(s0, 2) + 1",
        "Pow(Symbol('s0'), Integer(2))",
        "Rational(1, 2)", "Ne(s0, 1)", "s0 >= 2", "Float('0.5', precision=53)",
    ],
)  # fmt: skip
def test_sizes_as_torch_writes_them_pass(text):
    assert check_expression(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "L['x'].size().__class__", "L.__globals__", "print(1)", "L['x'].tolist()", "'a' * 99999999 == 1", "(x := 1)",
        "L['x\"'].size()[0] == 1", "L['x'].size(*[1])",
    ],
)  # fmt: skip
def test_guards_that_are_no_conditions_on_sizes_are_refused(text):
    with pytest.raises(TextError):
        check_guard(text)


def test_nested_inputs_are_tuples_lists_and_dictionaries_only():
    leaf = {"type": None, "context": None, "children_spec": []}
    good = [1, {"type": "builtins.dict", "context": '["a"]', "children_spec": [leaf]}]
    assert json.loads(check_tree(json.dumps(good))) == good
    bad = [1, {"type": "collections.defaultdict", "context": '{"default_factory_module": "os"}', "children_spec": []}]
    with pytest.raises(TextError):
        check_tree(json.dumps(bad))
    enum = [
        1,
        {"type": "builtins.dict", "context": '[{"__enum__": true, "fqn": "os:system"}]', "children_spec": [leaf]},
    ]
    with pytest.raises(TextError):
        check_tree(json.dumps(enum))


@pytest.mark.parametrize(
    "target",
    ["torch.load", "torch.serialization.os.system", "torch.ops.aten.__class__", "torch.ops.aten.relu.__init__",
     "_operator.attrgetter", "math.factorial", "torch.ops.load_library", "torch.ops.prims.add.default", ""],
)  # fmt: skip
def test_other_targets_are_refused(target):
    assert not is_allowed_target(target)
