"""No model makes a reader open a file that is not its own, whatever place of the format names the file, and however.

Each row of `ESCAPES` is a published proof of concept or a near relative of one, with the advisory it is of.
"""

import os
import socket
import sys

import onnx_ir as ir
import pytest

from rtool.cli.main import run
from rtool.converters import OnnxRunner, export, inspect, load_bundle, load_onnx, onnx2torch, onnx_to_torch
from rtool.converters.files.model_file import ModelFile
from rtool.errors import InputError, RtoolError

ZIP, NESTED, SYMLINK, INJECTION = "CVE-2022-25882", "CVE-2024-27318", "CVE-2026-27489", "CVE-2026-34445"
HARD_LINK, PARENT_LINK = "CVE-2026-34446", "CVE-2026-34447"
ORT, SPARSE_ORT, RELATED = "ONNX Runtime #26776 and #27430", "ONNX Runtime, sparse tensors", "related"


def at(location, **entries):
    return lambda split: {"location": location.format(secret=split.secret), **entries}


def made(prepare, location="weights.bin", **entries):
    """An escape that needs something in the folder: `prepare` gets the folder's data file and the secret."""

    def build(split):
        data = split.folder / "weights.bin"
        data.unlink()
        prepare(data, split.secret)
        return {"location": location, **entries}

    return build


def chain(data, secret):
    (data.parent / "a").symlink_to("b")
    (data.parent / "b").symlink_to(secret)
    data.symlink_to("a")


def linked_folder(data, secret):
    (data.parent / "sub").symlink_to(secret.parent)


def unix_socket(data, _secret):
    here = os.getcwd()
    os.chdir(data.parent)  # a socket's path may have 107 characters
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(data.name)
    os.chdir(here)


def itself(data, _secret):
    data.symlink_to(data.name)


LEAVES = "leaves the model's folder"
ESCAPES = {
    "up": (ZIP, at("../outside/secret.bin"), LEAVES),
    "up, many times": (ZIP, at("../" * 30 + "etc/passwd"), LEAVES),
    "up behind a folder": (NESTED, at("junk/../../outside/secret.bin"), LEAVES),
    "up behind dots": (NESTED, at("./../outside/secret.bin"), LEAVES),
    "up behind slashes": (NESTED, at("sub//..//../outside/secret.bin"), LEAVES),
    "up behind the sign that was stripped": (NESTED, at("#../../outside/secret.bin"), LEAVES),
    "up, and down again": (NESTED, at("../inside/weights.bin"), LEAVES),
    "up, in backslashes": (ZIP, at("..\\outside\\secret.bin"), LEAVES),
    "up, in mixed slashes": (ZIP, at("sub\\../..\\outside/secret.bin"), LEAVES),
    "up, percent": (NESTED, at("%2e%2e/outside/secret.bin"), LEAVES),
    "up, percent slashes": (NESTED, at("..%2foutside%2fsecret.bin"), LEAVES),
    "up, twice percent": (NESTED, at("%252e%252e%252foutside"), "is missing"),
    "up, in wide characters": (RELATED, at("\uff0e\uff0e/outside/secret.bin"), "is missing"),
    "the folder above": (RELATED, at(".."), LEAVES),
    "absolute": (ORT, at("{secret}"), LEAVES),
    "absolute, two slashes": (ORT, at("/{secret}"), LEAVES),
    "absolute, of the process": (RELATED, at("/proc/self/environ"), LEAVES),
    "absolute, a device": (RELATED, at("/dev/zero"), LEAVES),
    "absolute, a drive": (SYMLINK, at("C:\\secret.bin"), LEAVES),
    "absolute, a drive of one part": (SYMLINK, at("C:secret.bin"), LEAVES),
    "absolute, a share": (RELATED, at("\\\\server\\share\\secret.bin"), LEAVES),
    "absolute, the home folder": (RELATED, at("~/secret.bin"), LEAVES),
    "a URL": (RELATED, at("file://{secret}"), LEAVES),
    "a URL with a host": (RELATED, at("http://localhost/secret.bin"), LEAVES),
    "only in the current folder": (ORT, at("secret.bin"), "is missing"),
    "empty": (ORT, at(""), "is empty"),
    "white": (RELATED, at("  "), "is empty"),
    "the folder": (RELATED, at("."), "is the model's folder"),
    "the folder, with a slash": (RELATED, at("./"), "is the model's folder"),
    "a folder": (RELATED, made(lambda data, _: data.mkdir()), "is a folder"),
    "NUL": (RELATED, at("weights.bin\0.png"), r"external data location is .* which is not a path"),
    "a line break": (RELATED, at("weights.bin\n"), "control characters"),
    "an endless name": (RELATED, at("a" * 100_000), "has 100000 characters"),
    "a name too long for the disk": (RELATED, at("a" * 900), "has a name of more than 255 bytes"),
    "a mark for memory": ("ONNX Runtime, memory addresses", at("*/_ORT_MEM_ADDR_/*", offset="4096"), "mark for memory"),
    "a bundle's weights": (RELATED, at("weights.safetensors#w"), "give the bundle's folder"),
    "other letters": (RELATED, at("Weights.bin"), "there is 'weights.bin', in other letters"),
    "the model itself": (RELATED, at("model.onnx", length=None), "is the model itself"),
    "a link": (SYMLINK, made(lambda data, secret: data.symlink_to(secret)), LEAVES),
    "a chain of links": (SYMLINK, made(chain), LEAVES),
    "a link to itself": (SYMLINK, made(itself), "is a link to itself"),
    "a link to nothing": (SYMLINK, made(lambda data, _: data.symlink_to("gone")), "which does not exist"),
    "a link to the process": (SYMLINK, made(lambda data, _: data.symlink_to("/proc/self/environ")), LEAVES),
    "a link to a device": (SYMLINK, made(lambda data, _: data.symlink_to("/dev/zero")), LEAVES),
    "a folder that is a link": (PARENT_LINK, made(linked_folder, "sub/secret.bin"), LEAVES),
    "a hard link": (HARD_LINK, made(lambda data, secret: os.link(secret, data)), "2 hard links"),
    "a pipe": (RELATED, made(lambda data, _: os.mkfifo(data)), "is a pipe"),
    "a socket": (RELATED, made(unix_socket), "is a socket"),
    "negative offset": (INJECTION, at("weights.bin", offset="-1"), "offset is '-1'"),
    "offset beyond the file": (INJECTION, at("weights.bin", offset="4096"), r"expected bytes 4096\.\."),
    "offset beyond 64 bits": (INJECTION, at("weights.bin", offset=str(2**64)), "offset is"),
    "offset that overflows": (INJECTION, at("weights.bin", offset=str(2**63 - 1)), "expected bytes"),
    "offset of other digits": (INJECTION, at("weights.bin", offset="\u0661"), "offset is"),
    "offset in hexadecimal": (INJECTION, at("weights.bin", offset="0x0"), "offset is"),
    "offset with a sign": (INJECTION, at("weights.bin", offset="+0"), "offset is"),
    "offset of many digits": (INJECTION, at("weights.bin", offset="9" * 10_000), "offset is"),
    "negative length": (INJECTION, at("weights.bin", length="-1"), "length is '-1'"),
    "length of another shape": (INJECTION, at("weights.bin", length="9"), "the file declares 9"),
    "length of petabytes": (INJECTION, at("weights.bin", length="9223372036854775807"), "the file declares"),
    "a key that sets an attribute": (INJECTION, at("weights.bin", __class__="x"), "got location, __class__"),
    "no location": (INJECTION, lambda _: {"offset": "0"}, "needs one location"),
    "another checksum": (RELATED, at("weights.bin", checksum="0" * 40), "the model states 000000000000"),
    "no checksum at all": (RELATED, at("weights.bin", checksum="md5"), "which is not a SHA-1 sum"),
}
opened: list[str] = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == "open" else None)


def hostile(split, name, carrier="initializer"):
    split.carrier = carrier
    split.entries = {key: text for key, text in ESCAPES[name][1](split).items() if text is not None}
    return split.write()


def refused(split, read, message):
    """`read` must fail with that message, which names file and place, and no secret may have been opened."""
    opened.clear()
    with pytest.raises(InputError, match=message) as caught:
        read()
    assert "model.onnx: " in str(caught.value)
    assert not [path for path in opened if "secret" in path or "passwd" in path or path.startswith("/proc/self/env")]
    return str(caught.value)


@pytest.mark.parametrize("escape", ESCAPES)
def test_an_escape_is_refused_wherever_the_tensor_is(split, carrier, escape):
    path = hostile(split, escape, carrier)
    said = refused(split, lambda: load_onnx(path), ESCAPES[escape][2])
    assert len(said) < 1000
    assert ("initializer 'w'" in said) or ("node '" in said)


READERS = {
    "load_onnx": load_onnx,
    "onnx2torch": lambda path: onnx2torch(path, path.parent / "out.rtool"),
    "onnx2torch --batch": lambda path: onnx2torch(path, path.parent / "out.rtool", batch="dynamic"),
    "inspect": inspect,
    "export": lambda path: export(path, path.parent / "out.onnx"),
    "OnnxRunner": OnnxRunner,
    "proto": lambda path: ModelFile.read(path).proto(),
}


@pytest.fixture
def no_session(monkeypatch):
    """ONNX Runtime must not be reached: it would look for the data by itself."""
    import onnxruntime

    def reached(*_args, **_options):
        raise AssertionError("ONNX Runtime was given the model")

    monkeypatch.setattr(onnxruntime, "InferenceSession", reached)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("escape", ["up behind a folder", "absolute", "a chain of links", "a hard link", "a pipe"])
def test_every_reader_refuses_it_before_a_runtime_sees_it(split, no_session, carrier, reader, escape):
    path = hostile(split, escape, carrier)
    refused(split, lambda: READERS[reader](path), ESCAPES[escape][2])
    assert not (path.parent / "out.rtool").exists()
    assert not (path.parent / "out.onnx").exists()


@pytest.mark.parametrize("escape", ["up", "absolute", "only in the current folder"])
def test_the_graph_of_a_bundle_names_no_files(split, tmp_path, carrier, escape):
    sound = tmp_path / "sound"
    sound.mkdir()
    whole = sound / "model.onnx"
    whole.write_bytes(ModelFile.read(split.write()).proto().SerializeToString())
    bundle = onnx2torch(whole, tmp_path / "m.rtool").output
    split.carrier, split.entries = carrier, ESCAPES[escape][1](split)
    (bundle / "graph.onnx").write_bytes(split.proto().SerializeToString())
    for read in (load_bundle, inspect, lambda path: export(path, tmp_path / "out.onnx")):
        opened.clear()
        with pytest.raises(RtoolError):
            read(bundle)
        assert not [path for path in opened if "secret" in path]


@pytest.mark.parametrize("command", [["inspect"], ["onnx2torch", "-o", "out.rtool"], ["export", "-o", "out.onnx"]])
@pytest.mark.parametrize("escape", ["up behind a folder", "a chain of links", "a hard link", "a pipe", "NUL"])
def test_a_command_ends_with_2_and_names_the_cause(split, capsys, escape, command):
    path = hostile(split, escape, "function Constant")
    assert run([command[0], str(path), *command[1:]]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "Traceback" not in said
    assert "function 'local::F': node 'constant' (Constant): attribute 'value': external data" in said


@pytest.mark.parametrize("given", ["proto", "bytes"])
def test_a_model_in_memory_never_looks_into_the_current_folder(split, no_session, carrier, given):
    split.carrier, split.entries = carrier, {"location": "secret.bin"}
    proto = split.proto()
    for read in (load_onnx, OnnxRunner, onnx_to_torch):
        if given == "proto":
            with pytest.raises(InputError, match="in memory; give the path"):
                read(proto)
    if given == "bytes":
        with pytest.raises(InputError, match="in memory; give the path"):
            OnnxRunner(proto.SerializeToString())
    assert proto == split.proto()


def test_an_ir_model_without_a_folder_is_refused_and_one_with_a_folder_is_held_to_it(split):
    loaded = ir.from_proto(split.proto())
    with pytest.raises(InputError, match="in memory; give the path"):
        load_onnx(loaded)
    split.carrier = "branch Constant"
    path = split.write()
    inner = load_onnx(ir.load(path))
    constants = [node for node in ir.traversal.RecursiveGraphIterator(inner.graph) if node.op_type == "Constant"]
    assert constants[0].attributes["value"].as_tensor().tobytes() == split.content()
    split.entries = {"location": "../outside/secret.bin"}
    with pytest.raises(InputError, match=LEAVES):
        load_onnx(ir.load(split.write()))
