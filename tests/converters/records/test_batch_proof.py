"""The recorded proof of an open batch: read back for the same bytes, and for no others."""

import onnx
from onnx import TensorProto, helper

from rtool.converters.records.batch_proof import BatchProof, describe_batch, proof_of_file, with_proof

PROOF = BatchProof((1, 2, 3), 2e-7)


def model(name: str = "x") -> bytes:
    value = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 2])]
    graph = helper.make_graph([helper.make_node("Relu", [name], ["y"])], "g", value, [])
    return helper.make_model(graph).SerializeToString()


def test_a_proof_is_metadata_and_is_read_back_from_the_bytes():
    proved = with_proof(model(), PROOF)
    assert proof_of_file(proved) == PROOF
    (entry,) = onnx.load_from_string(proved).metadata_props
    assert entry.key == "rtool.batch_proof"
    assert proof_of_file(model()) is None


def test_a_proof_for_other_bytes_is_not_believed():
    proved, other = with_proof(model(), PROOF), model("z")
    entry = proved[len(model()) :]
    changed = bytearray(proved)
    changed[len(model()) // 2] ^= 1
    for wrong in (bytes(changed), other + entry, proved + b"\x08\x08", proved[:-1], entry[:20]):
        assert proof_of_file(wrong) is None


def test_the_line_says_what_is_known():
    assert describe_batch(4, PROOF) == "fixed: 4"
    assert describe_batch("n") == "dynamic, not verified"
    assert describe_batch(None, PROOF) == "dynamic, verified at 1, 2 and 3"
