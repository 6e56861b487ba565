"""Machine that a workflow runs on."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass, replace

from unfooled.core.memory import read_size
from unfooled.runs.executors import dask, processes, worker_count
from unfooled.workflows.errors import BadOption
from unfooled.workflows.words import at_least

MAX_THREADS = 1024
WARM = "unfooled.workflows.auditing"
"""Module that helping processes import while this one loads model and data."""


@dataclass(frozen=True)
class Machine:
    """Device, and how much of it is used.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1" or "mps".
        threads: CPU threads of this process; None: unchanged.
        batch: Samples computed at once; None: from the free memory.
        memory: Memory that samples and points may take, "2GB" or bytes; None: half of what is free.
        workers: Processes that share the work of an audit, attack, study or set of features, this one included: a
            number, "auto" (one per core), or an executor, whose workers help.
        scheduler: Address of a Dask scheduler whose workers help, instead of `workers`. None: none.
    """

    device: str = "auto"
    threads: int | None = None
    batch: int | None = None
    memory: str | int | None = None
    workers: str | int | Executor = 1
    scheduler: str | None = None

    def helpers(self) -> Executor | None:
        """Open the executor of the processes that help; None: this process works alone.

        Raises:
            BadInput: Both options, a number that is none, or a scheduler that cannot be used.
        """
        if isinstance(self.workers, Executor):
            return self.workers
        count = worker_count(self.workers)
        if self.scheduler is None:
            local = processes(count, threads=self.threads)
            return None if local is None else local.warm(WARM)
        if count != 1:
            raise BadOption(
                "{workers:{0}} asks for processes of this machine, {scheduler} for those of others; give one of them",
                self.workers,
            )
        return dask(self.scheduler)

    def alone(self, device: str) -> Machine:
        """Return the machine of a helper: this device, and no helpers."""
        return replace(self, device=device, workers=1, scheduler=None)

    def prepare(self, seed: int = 0, *, shares: bool = False) -> str:
        """Check what every workflow takes, set the number of threads, and return the device.

        Args:
            seed: Random seed.
            shares: True for a workflow that shares its work among processes.

        Raises:
            BadOption: no such device, no thread, no batch, a seed that no generator takes, or processes for a workflow
                that does not share its work.
        """
        import torch

        if not shares and (self.workers not in (1, "1") or self.scheduler is not None):
            raise BadOption("this workflow runs in one process; leave out {workers} and {scheduler}")
        at_least("batch", self.batch, 1)
        if self.memory is not None:
            read_size(self.memory)
        if not 0 <= seed < 2**63:
            raise BadOption("{seed} is {0}; it must be at least 0 and below 2^63", seed)
        if self.threads is not None:
            at_least("threads", self.threads, 1)
            if self.threads > MAX_THREADS:
                raise BadOption("{threads} is {0}; it must be at most {1}", self.threads, MAX_THREADS)
            torch.set_num_threads(self.threads)
        if self.device == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        try:
            place = torch.device(self.device)
            if place.type == "cpu" and place.index:
                raise RuntimeError("there is one CPU device")
            torch.zeros(1, device=place).add(1).item()  # the device meta, for one, holds no numbers
        except (RuntimeError, AssertionError, NotImplementedError, ValueError) as e:
            reason = (str(e).splitlines() or [type(e).__name__])[0][:120]
            raise BadOption(
                "{device:{0}} cannot be used here ({1}); `unfooled doctor` lists what can", self.device, reason
            ) from None
        return self.device
