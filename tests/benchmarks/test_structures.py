"""The command: from a folder with a metric to a table, JSON and a drawing."""

import json
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from benchmarks import structures
from benchmarks.machine import THREADS
from benchmarks.peers import Unavailable
from benchmarks.peers.contest import Measured
from benchmarks.peers.exact import FaissFlat
from benchmarks.peers.graphs import FaissHnsw, Hnswlib
from benchmarks.peers.process import Task
from benchmarks.peers.trees import KdTree
from benchmarks.timing import Timing

RESULTS = {
    FaissFlat: Measured(0.1, {0.0: 1.0}, {0.0: Timing((4.0, 4.0))}),
    Hnswlib: Measured(2.0, {16.0: 0.90, 32.0: 0.95}, {16.0: Timing((0.5, 1.0)), 32.0: Timing((1.0, 2.0))}),
    KdTree: Measured(0.5, {1.0: 0.6}, {1.0: Timing((8.0, 8.0))}, too_slow=0.5),
    FaissHnsw: Unavailable("faiss: No module named 'faiss'"),
}


@pytest.fixture
def task():
    """Two queries of ten items."""
    return Task(np.zeros((10, 4), np.float32), np.zeros((2, 4), np.float32), 10, THREADS)


def test_queries_are_the_mean_vectors_of_histories(tmp_path):
    """Padding, −1, counts nothing."""
    vectors = np.arange(8, dtype=np.float32).reshape(4, 2)
    history = np.array([[1, 3, -1], [2, -1, -1], [0, 0, 0]], np.int32)
    save_file({"item_vectors": vectors, "query_history": history}, tmp_path / "reference.safetensors")
    task = structures.read(tmp_path, queries=2)
    assert task.queries.tolist() == [[4.0, 5.0], [4.0, 5.0]]
    assert task.vectors.tolist() == vectors.tolist()


def test_report_has_a_row_for_each_structure(task):
    """Queries/s at recall 0.95 by medians; speed over exhaustive search round by round; or why there are none."""
    flat, hnswlib, tree, faiss = structures.report(RESULTS, task).rows
    assert flat.queries_per_second == pytest.approx(0.5)
    assert hnswlib.queries_per_second == pytest.approx(2 / 1.5)
    assert hnswlib.over_exhaustive == pytest.approx((4.0 + 2.0) / 2)
    assert hnswlib.note == Hnswlib.built_with
    assert tree.queries_per_second is None
    assert "eps 0.5 takes over" in tree.note
    assert faiss.queries_per_second is None
    assert faiss.note == "not available: faiss: No module named 'faiss'"


def test_ours_is_compared_with_both_libraries(task, monkeypatch):
    """The ratio to one that is missing is none, not an error."""
    monkeypatch.setattr(structures, "OURS", FaissFlat)
    figures = structures.report(RESULTS, task).figures
    assert figures["ours_over_hnswlib"] == pytest.approx((0.25 + 0.5) / 2)
    assert figures["ours_over_faiss_hnsw"] is None


def test_command_refuses_a_folder_without_a_metric(tmp_path):
    """Wrong usage, and the folder is named."""
    command = [sys.executable, "-m", "benchmarks.structures", "--metric", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"COLUMNS": "400"})
    assert done.returncode == 2
    assert "holds no reference metric" in done.stderr
    assert done.stdout == ""


def test_command_leaves_a_table_json_and_a_drawing(tmp_path, monkeypatch, capfd):
    """Standard output holds the table alone, whatever the libraries print."""
    random = np.random.default_rng(5)
    tensors = {
        "item_vectors": random.normal(size=(3000, 16)).astype(np.float32),
        "query_history": random.integers(0, 3000, size=(8, 20)).astype(np.int32),
    }
    save_file(tensors, tmp_path / "reference.safetensors")
    monkeypatch.setattr(structures, "PEERS", structures.PEERS[1:2])
    structures.main(tmp_path, queries=8, json=tmp_path / "out.json", plot=tmp_path / "out", quick=True)
    found = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
    assert [row["method"] for row in found["rows"]] == ["KD-tree: scipy cKDTree"]
    assert max(point["recall_at_10"] for point in found["points"]) == 1.0
    assert capfd.readouterr().out.startswith("recall@10 = 0.95")
    assert (tmp_path / "out.png").stat().st_size > 0
    assert (tmp_path / "out.svg").stat().st_size > 0
