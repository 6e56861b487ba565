"""Helping processes: the same figures as alone, work that is shared, and helpers that fail, die, or are left behind."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tests.conftest import points, tiny_net
from torch import Tensor, nn

from unfooled import workflows
from unfooled.attacks.ensembles.cascade import Effort
from unfooled.attacks.ensembles.stages import Ascents
from unfooled.core.errors import BadInput
from unfooled.core.threats import Linf
from unfooled.evaluation.audit.audit import audit
from unfooled.evaluation.audit.plan import Plan
from unfooled.evaluation.audit.records import Summary
from unfooled.runs.claims import Holder, process_start
from unfooled.runs.executors import MAX_PER_CORE, WATCH_SECONDS, cores, dask, processes, worker_count
from unfooled.runs.helpers import DriverEnded, Helpers, Watch
from unfooled.workflows import Inputs, Machine

PLAN = Plan(
    effort=Effort("short", (Ascents(8),)), nearest_budget=100, nearest_n=6, explain_n=4, reasons=None, floor=200
)
APART = {"seconds", "created", "efficiency"}
"""Fields that say when and how fast."""


class Signed(nn.Module):
    """A network that notes the process of each call in a folder, and may end a process other than the first one."""

    def __init__(self, net: nn.Module, folder: Path, *, dies: bool = False) -> None:
        super().__init__()
        self.net, self.folder, self.first = net, folder, os.getpid()
        self.dies = dies

    def forward(self, x: Tensor) -> Tensor:
        pid = os.getpid()
        if self.dies and pid != self.first:
            os._exit(7)
        (self.folder / str(pid)).touch()
        answer: Tensor = self.net(x)
        return answer


def case(folder: Path, **options: Any) -> tuple[nn.Module, Tensor, Tensor]:
    net, x = tiny_net(3, (1, 6, 5)), points(60, (1, 6, 5), seed=5)
    with torch.no_grad():
        y = net(x).argmax(1)
    folder.mkdir()
    return Signed(net, folder, **options).eval(), x, y


def audited(model: nn.Module, x: Tensor, y: Tensor, out: Path, executor: Executor | Helpers | None = None) -> Summary:
    return audit(model, x, y, Linf(0.05), plan=PLAN, out=out, chunk=10, executor=executor, about={"model": "net"})


def figures(summary: Summary, folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    record = summary.model_dump(mode="json", exclude=APART)
    return record, load_file(folder / "samples.safetensors")


@pytest.fixture(scope="module")
def two() -> Executor:
    executor = processes(2, threads=1)
    assert executor is not None
    return executor


def test_two_processes_share_the_work_and_change_no_figure(two: Executor, tmp_path: Path) -> None:
    model, x, y = case(tmp_path / "pids")
    alone, tensors = figures(audited(model, x, y, tmp_path / "alone"), tmp_path / "alone")
    assert len(list((tmp_path / "pids").iterdir())) == 1
    summary = audited(model, x, y, tmp_path / "shared", two)
    assert summary.efficiency is not None and summary.efficiency.workers == 2
    assert 0 < (summary.efficiency.busy or 0) <= 1
    shared, others = figures(summary, tmp_path / "shared")
    assert len(list((tmp_path / "pids").iterdir())) == 2
    assert shared == alone
    assert set(others) == set(tensors)
    assert all(torch.equal(others[name], tensors[name]) for name in tensors)


class Inline(Executor):
    """An executor without processes."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@pytest.mark.parametrize("executor", [Inline(), processes(4, threads=1)], ids=["inline", "four"])
def test_other_executors_change_no_figure(executor: Executor, tmp_path: Path) -> None:
    model, x, y = case(tmp_path / "pids")
    alone, tensors = figures(audited(model, x, y, tmp_path / "alone"), tmp_path / "alone")
    shared, others = figures(audited(model, x, y, tmp_path / "shared", executor), tmp_path / "shared")
    assert len(list((tmp_path / "pids").iterdir())) == (1 if isinstance(executor, Inline) else 4)
    assert shared == alone
    assert others.keys() == tensors.keys()
    assert all(torch.equal(others[name], tensors[name]) for name in tensors)


def test_helpers_load_a_model_by_its_name(two: Executor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helped_nets.py").write_text(
        "import os, pathlib, torch\n"
        "class Net(torch.nn.Linear):\n"
        "    def forward(self, x):\n"
        f"        (pathlib.Path({str(tmp_path)!r}) / f'pid-{{os.getpid()}}').touch()\n"
        "        return super().forward(x.flatten(1))\n"
        "def build():\n"
        "    torch.manual_seed(0)\n"
        "    return Net(64, 10).eval()\n"
    )
    monkeypatch.chdir(tmp_path)
    inputs = Inputs("helped_nets.py:build", n=20)
    alone = workflows.audit(inputs, "linf:0.1", options=PLAN, out="alone", chunk=5)
    machine = Machine(workers=two)
    helped = workflows.audit(inputs, "linf:0.1", options=PLAN, out="helped", chunk=5, machine=machine)
    assert helped.model_dump(exclude=APART) == alone.model_dump(exclude=APART)
    assert len(list(tmp_path.glob("pid-*"))) == 2
    assert (tmp_path / "helped" / "report.html").is_file()


def test_who_helps_is_asked_for_once_and_only_where_work_is_shared() -> None:
    with pytest.raises(BadInput, match="workers=2 asks for processes of this machine, scheduler for those of others"):
        Machine(workers=2, scheduler="tcp://127.0.0.1:9").helpers()
    for machine in (Machine(workers=2), Machine(workers="auto"), Machine(scheduler="tcp://127.0.0.1:9")):
        with pytest.raises(BadInput, match="this workflow runs in one process; leave out workers and scheduler"):
            machine.prepare()
    assert Machine().helpers() is None


def test_a_helper_that_cannot_load_the_model_is_said(two: Executor, tmp_path: Path) -> None:
    model, x, y = case(tmp_path / "pids")

    def source() -> Any:
        raise FileNotFoundError("no net.pt here")

    alone = audited(model, x, y, tmp_path / "alone")
    helped = audited(model, x, y, tmp_path / "helped", Helpers(two, source))
    note = "A helping process failed, and the others did the work (FileNotFoundError: no net.pt here)."
    assert helped.warnings == [*alone.warnings, note]
    assert helped.robust_accuracy == alone.robust_accuracy


def test_another_model_is_no_help(two: Executor, tmp_path: Path) -> None:
    model, x, y = case(tmp_path / "pids")
    other = tiny_net(3, (1, 6, 5), seed=9)
    helped = audited(model, x, y, tmp_path / "helped", Helpers(two, lambda: (other, x, y)))
    assert any("holds another run" in text or "model" in text for text in helped.warnings)
    assert helped.robust_accuracy == audited(model, x, y, tmp_path / "alone").robust_accuracy


def test_a_helper_that_dies_costs_nothing_but_time(tmp_path: Path) -> None:
    model, x, y = case(tmp_path / "pids", dies=True)
    executor = processes(2, threads=1)
    helped = audited(model, x, y, tmp_path / "helped", executor)
    assert [text for text in helped.warnings if "A helping process failed" in text]
    assert helped.robust_accuracy == audited(model, x, y, tmp_path / "alone").robust_accuracy


def test_a_helper_ends_with_its_driver() -> None:
    here = Watch.here()
    here("attack", 1, 2)
    gone = Holder.here("driver")
    with pytest.raises(DriverEnded):
        Watch(Holder(gone.name, gone.token, gone.host, gone.pid, "another start", gone.beat))("attack", 1, 2)
    Watch(Holder(gone.name, gone.token, "elsewhere", gone.pid, "another start", gone.beat))("attack", 1, 2)


def test_numbers_of_processes() -> None:
    assert (worker_count("auto"), worker_count("3"), worker_count(2)) == (cores(), 3, 2)
    assert processes(1) is None
    most = MAX_PER_CORE * cores()
    assert worker_count(most) == most
    for text in ("0", "-1", "two", "1.5", str(most + 1), "1000000"):
        with pytest.raises(BadInput, match=rf"workers is {text}, and .* from 1 to {most} \(4 per core\), or auto"):
            worker_count(text)
    with pytest.raises(BadInput, match="workers is 1000000, and this machine has"):
        processes(1_000_000)


DRIVER = """
import sys, time
from unfooled.runs.executors import processes

executor = processes(3, threads=1)
started = [executor.submit(time.sleep, 0.2), executor.submit(time.sleep, 100)]
started[0].result()
print(*(pid for pool in executor._pools.values() for pid in pool._processes), flush=True)
time.sleep(100)
"""


def test_helpers_leave_soon_after_their_driver_was_killed() -> None:
    """One of them is at work, the other one waits for some."""
    command = [sys.executable, "-c", DRIVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        assert driver.stdout is not None
        helpers = [int(pid) for pid in driver.stdout.readline().split()]
        assert len(helpers) == 2 and all(process_start(pid) for pid in helpers)
        driver.kill()
    end = time.monotonic() + 10 * WATCH_SECONDS
    while any(process_start(pid) for pid in helpers):
        assert time.monotonic() < end, "a helper is still there"
        time.sleep(0.1)


def test_an_executor_that_does_not_say_its_size_gives_one_helper() -> None:
    assert Helpers(None).count == 0
    assert Helpers(Executor()).count == 1


def test_dask_that_is_not_there_is_said() -> None:
    if importlib.util.find_spec("distributed") is None:
        with pytest.raises(BadInput, match=r"needs the package distributed .*unfooled\[cluster\]"):
            dask("tcp://127.0.0.1:9")
    else:
        with pytest.raises(BadInput, match=r"there is no Dask scheduler at tcp://127\.0\.0\.1:9"):
            dask("tcp://127.0.0.1:9", timeout=1)


def test_workers_of_a_dask_cluster_change_no_figure(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="the extra cluster is not installed")
    model, x, y = case(tmp_path / "pids")
    alone, tensors = figures(audited(model, x, y, tmp_path / "alone"), tmp_path / "alone")
    cluster = distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None, processes=True)
    with cluster, dask(cluster.scheduler_address) as executor:
        shared, others = figures(audited(model, x, y, tmp_path / "shared", executor), tmp_path / "shared")
        seen = workflows.doctor(cluster.scheduler_address)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("unfooled._version.__version__", "0.0.1")
            other = workflows.doctor(cluster.scheduler_address)
    assert seen.unfit == []
    assert list(seen.workers.values()) == [f"unfooled {seen.unfooled}, torch {torch.__version__}"] * 2
    assert other.unfit == list(other.workers)
    assert all(text == f"other versions: unfooled {seen.unfooled}, here 0.0.1" for text in other.workers.values())
    assert len(list((tmp_path / "pids").iterdir())) == 3
    assert shared == alone
    assert all(torch.equal(others[name], tensors[name]) for name in tensors)
