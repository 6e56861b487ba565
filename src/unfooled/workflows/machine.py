"""Machine that a workflow runs on."""

from __future__ import annotations

from dataclasses import dataclass

from unfooled.core.memory import read_size
from unfooled.workflows.errors import BadOption
from unfooled.workflows.words import at_least

MAX_THREADS = 1024


@dataclass(frozen=True)
class Machine:
    """Device, and how much of it is used.

    Args:
        device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1" or "mps".
        threads: CPU threads of this process; None: unchanged.
        batch: Samples computed at once; None: from the free memory.
        memory: Memory that samples and points may take, "2GB" or bytes; None: half of what is free.
    """

    device: str = "auto"
    threads: int | None = None
    batch: int | None = None
    memory: str | int | None = None

    def prepare(self, seed: int = 0) -> str:
        """Check what every workflow takes, set the number of threads, and return the device.

        Raises:
            BadOption: no such device, no thread, no batch, or a seed that no generator takes.
        """
        import torch

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
