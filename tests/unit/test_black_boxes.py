"""Models without gradients: functions of arrays, estimators and their files, services over HTTP; audited end to end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import torch
from sklearn.ensemble import IsolationForest, RandomForestClassifier
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from torch import Tensor

import unfooled as uf
from unfooled.cli.app import run
from unfooled.core.errors import BadInput
from unfooled.core.model.wrappers import Counted
from unfooled.core.threats import UNIT
from unfooled.evaluation.checks.extending import affordable
from unfooled.evaluation.checks.gradients import Gradients
from unfooled.evaluation.checks.table import Kind, finding
from unfooled.models import Access, BlackBox, Endpoint, load_model
from unfooled.models.black_boxes import access_of, endpoint, from_estimator
from unfooled.report import render
from unfooled.runs.hashes import fingerprint

Plan = uf.Plan(effort=uf.QUICK, nearest_budget=100, nearest_n=2, explain_n=2, gallery=2, floor=3000, reasons=None)
NOT_ASKED = {"D5", "D6", "D7", "D9", "D19", "D27"}


def digits(n: int) -> tuple[Tensor, Tensor]:
    x, y = uf.load_data("digits", n=n)
    return x, y


def forest(trees: int = 4) -> RandomForestClassifier:
    x, y = uf.load_data("digits", split="train", n=600)
    return RandomForestClassifier(trees, random_state=0).fit(x.flatten(1).numpy(), y.numpy())


def means() -> tuple[np.ndarray, np.ndarray]:
    """Weights and biases of the classifier by the nearest mean."""
    x, y = uf.load_data("digits", split="train", n=600)
    mean = np.stack([x.flatten(1)[y == k].mean(0).numpy() for k in range(10)])
    return mean.T, -(mean**2).sum(1) / 2


@contextmanager
def service(answer: Callable[[list[Any]], Any], *, fail: int = 0, wait: float = 0.0) -> Iterator[tuple[str, list[int]]]:
    """A service on this machine; yield its address and the sizes of the requests that it got."""
    sizes: list[int] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
            sizes.append(len(rows))
            time.sleep(wait)
            if len(sizes) <= fail:
                self.send_error(503)
                return
            given = answer(rows)
            body = given if isinstance(given, bytes) else json.dumps(given).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/predict", sizes
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_forest_is_audited_end_to_end_without_gradients(tmp_path: Path) -> None:
    (x, y), model = digits(8), forest()
    summary = uf.audit(model, x.flatten(1), y, uf.Linf(0.2), plan=Plan, out=tmp_path)
    right = model.predict(x.flatten(1).numpy()) == y.numpy()
    assert summary.clean_accuracy.value == pytest.approx(right.mean())
    assert summary.access == "scores"
    assert summary.verdict in ("EXTENDED", "OVERSTATED")
    assert summary.robust_accuracy.value is not None
    assert summary.robust_accuracy.value < right.mean()
    found = {f.id: f for f in summary.diagnostics}
    assert found["D8"].fired and found["D8"].kind == "absent"
    assert {key for key in NOT_ASKED if "black box" in found[key].detail} == NOT_ASKED
    assert any("No gradients were to be had" in w for w in summary.warnings)
    render([tmp_path], tmp_path / "report.html")
    assert "No gradients were to be had" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_labels_alone_are_attacked_by_labels() -> None:
    x, y = digits(6)
    weights = means()

    def answer(a: Any) -> Any:
        return (a.reshape(len(a), -1) @ weights[0] + weights[1]).argmax(1)

    summary = uf.audit(answer, x.flatten(1), y, uf.Linf(0.3), plan=Plan)
    assert summary.access == "labels"
    assert "labels only" in next(f.detail for f in summary.diagnostics if f.id == "D8")
    assert summary.robust_accuracy.value is not None and summary.clean_accuracy.value is not None
    assert summary.robust_accuracy.value < summary.clean_accuracy.value


def test_affine_scores_reach_the_optimum_without_gradients() -> None:
    rng = np.random.default_rng(3)
    weights, x = rng.normal(size=(12, 3)), torch.from_numpy(rng.uniform(0.3, 0.7, (12, 12)).astype(np.float32))

    def answer(a: Any) -> Any:
        return (np.asarray(a, dtype=np.float64) - 0.5) @ weights

    scores = answer(x.numpy())
    y = scores.argmax(1)
    gaps = scores[np.arange(12), y][:, None] - scores
    lengths = np.abs(weights.T[y][:, None] - weights.T[None]).sum(2)
    distance = np.sort(np.where(gaps > 0, gaps / np.maximum(lengths, 1e-9), np.inf).min(1))
    eps = float(distance[5] + distance[6]) / 2
    summary = uf.audit(answer, x, torch.from_numpy(y), uf.Linf(eps), plan=Plan)
    assert summary.robust_accuracy.value == pytest.approx(6 / 12)
    assert summary.verdict == "EXTENDED"
    methods = [p.method for p in summary.progress]
    assert methods.index("estimated") < methods.index("decision")  # what fools more per query comes first


@pytest.mark.parametrize(("left", "cost", "steps"), [(10**9, 3, 8), (10, 3, 3), (2, 3, 0), (-5, 3, 0), (5, 0, 0)])
def test_steps_by_estimated_gradients_are_those_that_fit(left: int, cost: int, steps: int) -> None:
    assert affordable(left, cost) == steps


@pytest.mark.parametrize(("decimals", "alone"), [(None, True), (6, True), (1, False)])
def test_coordinates_are_moved_alone_where_scores_answer(decimals: int | None, alone: bool) -> None:
    x, weights = torch.rand(4, 30, generator=torch.Generator().manual_seed(0)), means()[0][:30, :5]

    def answer(a: Any) -> Any:
        scores = 3 * np.tanh(0.5 * (np.asarray(a, dtype=np.float64) - 0.5) @ weights)
        return scores if decimals is None else scores.round(decimals)

    box = Counted(BlackBox(answer, classes=5, name="answer"))
    estimated = Gradients(box, [finding("D8", True, "none", "others", kind=Kind.ABSENT)]).estimated(x, UNIT)
    assert estimated is not None
    assert estimated.coordinates == alone
    assert estimated.cost(x) == (31 if alone else 64)


def test_scores_that_estimators_have() -> None:
    x, y = (t.numpy() for t in (digits(60)[0].flatten(1), digits(60)[1]))
    rows = torch.from_numpy(x).reshape(-1, 1, 8, 8)
    for estimator, method in (
        (LogisticRegression(max_iter=50), "decision_function"),
        (make_pipeline(StandardScaler(), LogisticRegression(max_iter=50)), "decision_function"),
        (SVC(decision_function_shape="ovo"), "predict"),
        (RandomForestClassifier(3, random_state=0), "predict_proba"),
    ):
        estimator.fit(x, y)
        box = from_estimator(estimator)
        wanted = getattr(estimator, method)(x)
        wanted = np.eye(10)[wanted] if method == "predict" else wanted
        assert np.allclose(box(rows).numpy(), wanted, atol=1e-5)
        assert access_of(uf.Classifier(box)) is (Access.LABELS if method == "predict" else Access.SCORES)


def test_one_score_for_two_classes_and_labels_that_are_words() -> None:
    x, y = (t.numpy() for t in (digits(60)[0].flatten(1), digits(60)[1]))
    words = np.where(y > 4, "large", "small")
    model = LogisticRegression(max_iter=50).fit(x, words)
    box = load_model(model)
    logits = box(torch.from_numpy(x).reshape(-1, 1, 8, 8))
    assert logits.shape == (60, 2)
    assert box.classes == ["large", "small"]
    assert [box.classes[k] for k in logits.argmax(1)] == model.predict(x).tolist()
    svc = SVC(decision_function_shape="ovo").fit(x, words)
    assert from_estimator(svc)(torch.from_numpy(x)).argmax(1).tolist() == [
        ["large", "small"].index(word) for word in svc.predict(x)
    ]


@pytest.mark.parametrize(
    ("estimator", "sentence"),
    [
        (RandomForestClassifier(), "not fitted; call fit"),
        (LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0]), "no classifier"),
        (IsolationForest(n_estimators=2).fit([[0.0], [1.0]]), "no classifier"),
        (RandomForestClassifier(2).fit([[0.0], [1.0]], [[0, 1], [1, 0]]), "2 outputs; audit one"),
    ],
)
def test_what_is_no_fitted_classifier_is_refused(estimator: Any, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        load_model(estimator)


@pytest.mark.parametrize(
    ("answer", "classes", "sentence"),
    [
        (lambda a: np.zeros((3, 2)), None, "shape .3, 2. for 8 samples"),
        (lambda a: a.mean((1, 2, 3)), None, "one number per sample.*single=True"),
        (lambda a: np.zeros(len(a), dtype=int), None, "labels only; give classes="),
        (lambda a: np.full(len(a), 7), 3, "the label 7; the classes are 0, 1, 2"),
        (lambda a: np.zeros((len(a), 4)), 3, "4 scores for 3 classes"),
        (lambda a: np.array([["a", "b"]] * len(a)), None, "scores are numbers"),
        (lambda a: [[1.0], [1.0, 2.0]], None, "no array"),
    ],
)
def test_answers_that_are_refused(answer: Any, classes: Any, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        BlackBox(answer, classes=classes)(torch.zeros(8, 1, 2, 2))


def test_probabilities_that_do_not_sum_to_one_are_scores_and_said() -> None:
    box = BlackBox(lambda a: np.array([[0.4, 0.3]] * len(a)))
    with pytest.warns(UserWarning, match=r"do not sum to one \(0.7 to 0.7\)"):
        assert torch.equal(box(torch.zeros(2, 3)), torch.tensor([[0.4, 0.3]] * 2))


def test_modules_are_not_black_boxes() -> None:
    net = torch.nn.Linear(2, 2)
    with pytest.raises(BadInput, match="audit the module itself"):
        BlackBox(lambda a: net(torch.from_numpy(a)))


def test_fingerprint_follows_what_an_estimator_learned() -> None:
    x, y = digits(20)
    a, again, b = (uf.Classifier(from_estimator(forest(k))) for k in (3, 3, 4))
    prints = [fingerprint(model, x, y) for model in (a, again, b)]
    assert prints[0] == prints[1] != prints[2]


def test_files_of_estimators(tmp_path: Path) -> None:
    path = tmp_path / "forest.joblib"
    joblib.dump(forest(3), path)
    with pytest.raises(BadInput, match=r"is a pickle, which may run any code.*trust_pickle=True"):
        load_model(path)
    x, _ = digits(4)
    assert load_model(path, trust_pickle=True)(x).shape == (4, 10)
    path.write_bytes(b"no pickle")
    with pytest.raises(BadInput, match="cannot be read"):
        load_model(path, trust_pickle=True)


def test_skops_file(tmp_path: Path) -> None:
    io = pytest.importorskip("skops.io", reason="skops is not installed")
    x, y = digits(60)
    io.dump(LogisticRegression(max_iter=300).fit(x.flatten(1), y), tmp_path / "net.skops")
    assert load_model(tmp_path / "net.skops")(x).shape == (60, 10)


def test_skops_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "skops", None)
    (tmp_path / "net.skops").write_bytes(b"PK")
    with pytest.raises(BadInput, match="needs skops; pip install skops"):
        load_model(tmp_path / "net.skops")


def test_xgboost_model_is_audited() -> None:
    xgboost = pytest.importorskip("xgboost", reason="xgboost is not installed (pip install xgboost-cpu)")
    x, y = digits(200)
    model = xgboost.XGBClassifier(n_estimators=5, max_depth=3).fit(x.flatten(1).numpy(), y.numpy())
    summary = uf.audit(model, x[:6].flatten(1), y[:6], uf.Linf(0.2), plan=Plan)
    assert summary.access == "scores" and summary.verdict in ("EXTENDED", "OVERSTATED")
    with pytest.raises(BadInput, match="give the XGBClassifier"):
        load_model(model.get_booster())


def test_service_is_audited_end_to_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint, "PAUSE", 0.0)
    weights = means()

    def answer(rows: list[Any]) -> Any:
        return {"predictions": (np.array(rows).reshape(len(rows), -1) @ weights[0] + weights[1]).tolist()}

    command = [
        "audit",
        "--data",
        "digits",
        "--n",
        "6",
        "--threat",
        "linf:0.2",
        "--effort",
        "quick",
        "--reasons",
        "none",
    ]
    with service(answer) as (url, sizes):
        code = run(
            [*command, "--model", f"{url}#batch=128", "--out", str(tmp_path / "run"), "--budget", "4s", "--quiet"]
        )
    assert code == 0, capsys.readouterr().err
    assert max(sizes) <= 128
    record = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert record["access"] == "scores"
    assert record["model"].startswith("http://127.0.0.1")


def test_endpoint_batches_repeats_and_remembers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PAUSE", 0.01)
    x = np.arange(20, dtype=np.float32).reshape(10, 2)
    with service(lambda rows: [[sum(r), 0.0] for r in rows], fail=1) as (url, sizes):
        ask = Endpoint(url, batch=4)
        assert np.allclose(ask(x)[:, 0], x.sum(1))
        assert sizes == [4, 4, 4, 2]  # the first was refused
        assert np.allclose(ask(x[[3, 3, 0]])[:, 0], x[[3, 3, 0]].sum(1))
        assert len(sizes) == 4
        slow = Endpoint(url, batch=1, per_second=20)
        start = time.monotonic()
        slow(x[:4])
        assert time.monotonic() - start > 0.14


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda rows: {"predictions": [[0.0, 1.0]]}, "answered with 1 rows for 3 samples"),
        (lambda rows: b"<html>", "answered with no JSON"),
        (lambda rows: {"error": "no"}, "answered without rows"),
        (lambda rows: [[0.0], [1.0, 2.0], [3.0]], "rows of different lengths"),
    ],
)
def test_answers_of_a_service_that_are_refused(answer: Any, sentence: str) -> None:
    with service(answer) as (url, _), pytest.raises(BadInput, match=sentence):
        Endpoint(url)(np.zeros((3, 2), dtype=np.float32) + np.arange(3, dtype=np.float32)[:, None])


def test_service_that_is_down_slow_or_no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "PAUSE", 0.0)
    x = np.zeros((1, 2), dtype=np.float32)
    with pytest.raises(BadInput, match=r"cannot be reached: .*\(2 attempts\)"):
        Endpoint("http://127.0.0.1:9/", retries=1)(x)
    late = pytest.raises(BadInput, match=r"did not answer within 0.05 s")
    with service(lambda rows: [[0.0, 1.0]], wait=0.4) as (url, _), late:
        Endpoint(url, timeout=0.05, retries=0)(x)
    for source, sentence in (
        ("http://", "is no address"),
        ("http://a/#batches=3", "no option 'batches'; it has batch, timeout"),
        ("http://a/#batch=many", "batch is 'many'; it is a number"),
        ("http://a/#batch=0", "it must be at least 1"),
    ):
        with pytest.raises(BadInput, match=sentence):
            Endpoint.of(source)


def test_file_of_the_user_gives_an_estimator_or_a_function(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import numpy as np\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "rows = np.random.default_rng(0).random((40, 64), dtype=np.float32)\n"
        "estimator = LogisticRegression().fit(rows, np.arange(40) % 10)\n"
        "def make():\n    return estimator\n"
        "def scores(a):\n    return estimator.decision_function(a.reshape(len(a), -1))\n"
    )
    x, y = digits(8)
    for name in ("estimator", "make", "scores"):
        source = f"{tmp_path / 'mine.py'}:{name}"
        inputs = uf.workflows.Inputs(source, (x, y))
        loaded = inputs.load("cpu", seed=0)
        assert access_of(loaded.model) is Access.SCORES
        assert loaded.model(x).shape == (8, 10)
