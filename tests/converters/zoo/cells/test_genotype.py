"""genotype.json: round trip, the parse's oracle, and each way in which a file is not one."""

import json

import numpy as np
import pytest

from rtool.converters.zoo.cells.genotype import Genotype, genotype_of_json, read_genotype, write_genotype
from rtool.converters.zoo.cells.parsing import genotype_weights, parse_genotype
from rtool.converters.zoo.cells.space import SearchSpace
from rtool.errors import InputError

SMALL = SearchSpace(operations=("none", "skip", "sep3"), nodes=2, channels=4)


def test_parsing_keeps_the_two_strongest_edges_of_a_node():
    # Edges 0 and 1 are those of node 0; the oracle is about the three edges of node 1.
    oracle = [(0.5, 0.3, 0.2), (0.1, 0.2, 0.7), (0.2, 0.41, 0.39)]
    weights = [(0.1, 0.2, 0.7), (0.1, 0.7, 0.2), *oracle]
    found = parse_genotype(SMALL, weights, weights)
    assert found.normal == found.reduce == ((("sep3", 0), ("skip", 1)), (("sep3", 1), ("skip", 2)))
    assert found.skips == {"normal": 2, "reduce": 2}


def test_of_equal_weights_the_lower_number_wins():
    found = parse_genotype(SMALL, np.full((5, 3), 1 / 3), np.full((5, 3), 1 / 3))
    assert found.normal == ((("skip", 0), ("skip", 1)), (("skip", 0), ("skip", 1)))


def test_too_many_skips_give_way_to_the_next_best_weakest_first():
    weights = [(0, 0.6, 0.4), (0, 0.9, 0.1), (0, 0.7, 0.3), (0, 0.65, 0.35), (0, 0.2, 0.8)]
    assert parse_genotype(SMALL, weights, weights).skips == {"normal": 3, "reduce": 3}
    two = parse_genotype(SMALL, weights, weights, most_skips=2)
    assert two.skips == {"normal": 2, "reduce": 3}  # the cells that reduce are left as they are
    assert two.normal == ((("sep3", 0), ("skip", 1)), (("skip", 0), ("sep3", 2)))
    # Once its skip is gone, an edge may lose its place to another: edge 2 to edge 3, with 0.35 of sep3.
    assert parse_genotype(SMALL, weights, weights, most_skips=0).normal == (
        (("sep3", 0), ("sep3", 1)),
        (("sep3", 1), ("sep3", 2)),
    )


def test_more_or_fewer_edges_per_node_are_kept():
    weights = np.random.default_rng(0).random((5, 3))
    for kept, counts in ((1, [1, 1]), (3, [2, 3])):
        space = SearchSpace(operations=SMALL.operations, nodes=2, channels=4, inputs_per_node=kept)
        found = parse_genotype(space, weights, weights)
        assert [len(edges) for edges in found.normal] == counts
        assert genotype_of_json(found.to_json(), "again") == found


def test_weights_of_ones_and_zeros_parse_to_the_genotype_they_came_from():
    weights = np.random.default_rng(1).random((2, 5, 3))
    found = parse_genotype(SMALL, *weights)
    assert parse_genotype(SMALL, *genotype_weights(found)) == found


def test_a_file_reads_back_as_what_was_written(tmp_path):
    facts = {"epoch": 3, "method": "mixed", "order": 1, "seed": 0, "entropy": 1.5, "macs": 10, "source": "argmax"}
    found = parse_genotype(SMALL, np.eye(5, 3), np.eye(5, 3), facts=facts)
    write_genotype(found, tmp_path / "genotype.json")
    assert read_genotype(tmp_path / "genotype.json") == found
    content = json.loads((tmp_path / "genotype.json").read_text())
    assert content["normal"] == [["skip", 0], ["skip", 1], ["sep3", 0], ["skip", 1]]
    assert content["concat"] == [2, 3]
    assert content["schema"] == 1


def content(**changes) -> dict:
    made = parse_genotype(SMALL, np.eye(5, 3), np.eye(5, 3)).to_json()
    made.update(changes)
    return {key: value for key, value in made.items() if value is not ...}


EDGES = [["sep3", 0], ["sep3", 1], ["sep3", 0], ["sep3", 2]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schema": 2}, "genotype of schema 2; this rtool reads schema 1"),
        ({"schema": ...}, "needs 'schema', which is missing"),
        ({"schema": True}, "genotype of schema True"),
        ({"normal": ...}, "needs 'normal'"),
        ({"normals": []}, "unknown key 'normals' in a genotype; did you mean normal"),
        ({"operations": ["none", "sep5"]}, "unknown operation 'sep5'"),
        ({"operations": "sep3"}, "operations: expected a list of names"),
        ({"cells": 2}, "cells takes a whole number from 3 to 100"),
        ({"cells": 10**9}, "cells takes a whole number from 3 to 100, .*got 1000000000"),
        ({"nodes": 2.0}, "nodes takes a whole number from 1 to 16, got 2.0"),
        ({"stem": ["stride4"]}, "unknown stem"),
        ({"normal": [*EDGES, ["sep3", 0]]}, "normal: expected 4 edges .*got 5 edges"),
        ({"normal": "sep3"}, "normal: expected 4 edges"),
        ({"normal": [*EDGES[:3], ["sep3"]]}, 'an edge is .*; got ."sep3"'.replace('"', "'")),
        ({"reduce": [*EDGES[:3], ["sep3", 3]]}, "reduce: node 1 takes 2 edges from different states 0 to 2"),
        ({"reduce": [*EDGES[:3], ["sep3", -1]]}, "an edge reads a state from 0 to 3, got -1"),
        ({"normal": [*EDGES[:3], ["sep3", 0]]}, r"in ascending order, got \[0, 0\]"),
        ({"normal": [*EDGES[:3], ["none", 2]]}, "an edge carries 'none'"),
        ({"normal": [*EDGES[:3], ["part", 2]]}, "an edge carries 'part'; known: sep3, skip"),
        ({"concat": [2]}, r"concat: expected \[2, 3\], all nodes, got \[2\]"),
        ({"epoch": "three"}, "epoch: expected a number, got 'three'"),
        ({"method": 1}, "method: expected text"),
        ({"skips": {"normal": 9, "reduce": 0}}, "skips: says .*, and its cells have"),
    ],
)
def test_what_is_not_a_genotype_is_refused(changes, message):
    with pytest.raises(InputError, match=f"found: .*{message}"):
        genotype_of_json(content(**changes), "found")


@pytest.mark.parametrize(
    "text", [b"[]", b"", b"Genotype(normal=[('sep3', 0)])", b"\xff", b'{"schema": NaN}', b"[" * 10**5]
)
def test_files_that_are_no_genotype_are_refused(tmp_path, text):
    (tmp_path / "genotype.json").write_bytes(text)
    with pytest.raises(InputError, match=r"genotype.json: "):
        read_genotype(tmp_path / "genotype.json")


def test_missing_and_large_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"no such genotype; a search writes RUN/search/genotype.json"):
        read_genotype(tmp_path / "genotype.json")
    (tmp_path / "large.json").write_bytes(b" " * (1 << 21))
    with pytest.raises(InputError, match="larger than 1 MiB"):
        read_genotype(tmp_path / "large.json")


def test_weights_that_are_not_finite_or_of_another_shape_do_not_parse():
    with pytest.raises(InputError, match="not finite; the search diverged"):
        parse_genotype(SMALL, np.full((5, 3), np.nan), np.ones((5, 3)))
    with pytest.raises(InputError, match=r"reduce cell: expected \[5, 3\], got \[3, 5\]"):
        parse_genotype(SMALL, np.ones((5, 3)), np.ones((3, 5)))
    space = SearchSpace(operations=("none", "skip"), nodes=2)
    with pytest.raises(InputError, match="no operation but skip"):
        parse_genotype(space, np.ones((5, 2)), np.ones((5, 2)), most_skips=1)


def test_a_genotype_made_in_python_is_checked_too():
    good = (("sep3", 0), ("sep3", 1))
    with pytest.raises(InputError, match="normal: expected 2 nodes, got 1"):
        Genotype(SMALL, (good,), (good, good))
