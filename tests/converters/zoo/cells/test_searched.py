"""The network of a genotype: what it holds, its options, gradients, and the supernet with the same cell."""

import io

import numpy as np
import onnxruntime
import torch

from rtool.converters import build_architecture
from rtool.converters.exporting.reexport import torch_to_onnx
from rtool.converters.zoo.cells.genotype import Genotype, write_genotype
from rtool.converters.zoo.cells.parsing import genotype_weights, parse_genotype
from rtool.converters.zoo.cells.space import OPERATIONS, SearchSpace
from rtool.converters.zoo.cells.supernet import Supernet

SPACE = SearchSpace(nodes=3, channels=4)


def genotype(seed: int = 0):
    return parse_genotype(SPACE, *np.random.default_rng(seed).random((2, SPACE.edges, 7)))


def every_operation():
    """A genotype whose cells hold each operation but none."""
    weights = np.zeros((2, SPACE.edges, 7))
    for edge in range(SPACE.edges):
        weights[:, edge, 1 + edge % 6] = 1
    return parse_genotype(SPACE, *weights)


def test_a_file_and_its_content_give_the_same_network(tmp_path):
    write_genotype(genotype(), tmp_path / "genotype.json")
    torch.manual_seed(0)
    one = build_architecture("searched", genotype=str(tmp_path / "genotype.json"), embedding_size=8)
    torch.manual_seed(0)
    two = build_architecture("searched", genotype=genotype().to_json(), embedding_size=8)
    images = torch.randn(2, 3, 64, 32)
    assert torch.equal(one(images), two(images))
    assert one(images).shape == (2, 8)


def test_cells_and_channels_of_the_network_may_differ_from_the_search():
    with torch.device("meta"):
        wide = build_architecture("searched", genotype=genotype().to_json(), cells=8, channels=10, embedding_size=8)
    assert len(wide.cells) == 8
    assert wide.head.fc.in_features == 3 * 40


def test_weights_of_ones_and_zeros_make_the_supernet_that_network():
    """The supernet's chosen operations, copied into the discrete network, give its embeddings."""
    torch.manual_seed(0)
    found = every_operation()
    supernet = Supernet(SearchSpace(nodes=3, channels=4, embedding_size=8)).double()
    network = build_architecture("searched", genotype=found.to_json(), embedding_size=8).double()
    state = {}
    for name, value in supernet.state_dict().items():
        if ".edges." not in name:
            state[name] = value
    for number, plan in enumerate(SPACE.plans):
        for node, edges in enumerate(found.reduce if plan.reduces else found.normal):
            for place, (operation, read) in enumerate(edges):
                edge = SPACE.node_edges[node][read]
                source = f"cells.{number}.edges.{edge}.operations.{OPERATIONS.index(operation)}."
                for name, value in supernet.state_dict().items():
                    if name.startswith(source):
                        state[f"cells.{number}.nodes.{node}.{place}.{name.removeprefix(source)}"] = value
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert not unexpected
    assert all(name.endswith((".weight", ".bias")) for name in missing)  # those of BatchNorms, which begin as 1 and 0
    images = torch.randn(4, 3, 64, 32, dtype=torch.float64)
    weights = [torch.from_numpy(each).double() for each in genotype_weights(found)]
    torch.testing.assert_close(supernet(images, *weights), network(images))


def test_export_of_odd_sizes_computes_the_same_in_onnx_runtime():
    torch.manual_seed(0)
    normal = ((("skip", 0), ("part", 1)), (("avg3", 0), ("max3", 2)))
    reduce = ((("skip", 0), ("part", 1)), (("sep3", 0), ("dil3", 1)))
    found = Genotype(SearchSpace(nodes=2, channels=4), normal, reduce)
    network = build_architecture("searched", genotype=found.to_json(), embedding_size=8)
    images = torch.randn(3, 3, 57, 31)
    network(images)  # moves the running statistics away from 0 and 1
    network.eval()
    file = io.BytesIO(torch_to_onnx(network, images).SerializeToString())
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for batch in (1, 3):
        (found,) = session.run(None, {"images": images[:batch].numpy()})
        with torch.no_grad():
            expected = network(images[:batch]).numpy()
        assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()


def test_every_parameter_of_the_network_learns():
    torch.manual_seed(0)
    network = build_architecture("searched", genotype=every_operation().to_json(), embedding_size=8)
    network(torch.randn(2, 3, 64, 32)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
