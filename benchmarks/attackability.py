"""The study of attackability as a record: its summary without pictures, with processor seconds and load.

Seconds of the summary are those of a clock, which on a busy machine say little. A run that was interrupted adds up the
processor seconds of its starts, in DIR/processor_seconds.json.

    python benchmarks/attackability.py --scale small --out runs/attackability --record attackability-small.json
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from unfooled.runs.files import write_whole
from unfooled.runs.records import write_record
from unfooled.studies.attackability.scale import SCALES
from unfooled.studies.attackability.study import run_attackability

RESULTS = Path(__file__).parent / "results"


def processor_seconds() -> float:
    """Return the processor seconds of this process and its children."""
    return sum(os.times()[:4])


def main() -> None:
    """Run the study, or continue it, and write its record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", default="small", choices=SCALES)
    parser.add_argument("--out", type=Path, default=Path("runs/attackability"))
    parser.add_argument("--record", default="")
    args = parser.parse_args()
    name = args.record or f"attackability-{args.scale}.json"
    args.out.mkdir(parents=True, exist_ok=True)
    starts = args.out / "processor_seconds.json"
    before: list[dict[str, float]] = json.loads(starts.read_text()) if starts.is_file() else []

    def note(*_: object) -> None:
        """Store the processor seconds and the load of this start so far."""
        now = {"processor_seconds": round(processor_seconds(), 1), "load": round(os.getloadavg()[1], 1)}
        write_whole(starts, json.dumps([*before, now]).encode())

    command = f"python benchmarks/attackability.py --scale {args.scale}"
    summary = run_attackability(args.scale, out=args.out, command=command, progress=note)
    note()
    each = json.loads(starts.read_text())
    summary = summary.model_copy(update={
        "pictures": [], "cpu_seconds": round(sum(one["processor_seconds"] for one in each), 1),
        "load": [one["load"] for one in each],
    })  # fmt: skip
    write_record(RESULTS / name, summary)
    print(f"{summary.cpu_seconds} processor seconds, {summary.seconds} seconds, load {summary.load}")


if __name__ == "__main__":
    main()
