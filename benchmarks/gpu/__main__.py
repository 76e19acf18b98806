"""What rewriting does on a GPU: a whole step, heads, feed-forward blocks, against the best of XLA's dense forms.

python -m benchmarks.gpu --out gpu.json            # on a machine with a GPU; under five minutes
python -m benchmarks.gpu --page gpu.json           # what it found, as Markdown; no GPU needed
python -m benchmarks.gpu --quick                   # tiny shapes, to try the program itself on any machine

Weights are random, so this is speed at given shapes and densities. The file is written anew after every table.
"""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

from benchmarks.gpu.measure import Clock
from benchmarks.gpu.page import page, short

# Seconds of each part, in the order in which they run.
SECONDS = {"memory": 10.0, "head": 95.0, "step": 95.0, "blocks": 70.0}


def main() -> None:
    """Run the parts, or render what an earlier run wrote."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the figures to this JSON file")
    parser.add_argument("--only", nargs="+", choices=SECONDS, default=list(SECONDS))
    parser.add_argument("--seconds", type=float, help="of all parts together (default: 270)")
    parser.add_argument("--quick", action="store_true", help="tiny shapes")
    parser.add_argument("--page", type=Path, metavar="FILE.json", help="print the page of an earlier run")
    options = parser.parse_args()
    if options.page:
        print(page(json.loads(options.page.read_text())))
        return
    found: dict[str, Any] = {"machine": machine(), "quick": options.quick, "seconds": {}, "tables": {}}
    print(json.dumps(found["machine"]))
    share = options.seconds / sum(SECONDS[name] for name in options.only) if options.seconds else 1.0
    late = 0.0  # what a part left over, the next one may have
    for name in options.only:
        clock = Clock(share * SECONDS[name] + late)
        try:
            _part(name, clock, options.quick, found, options.out)
        except Exception:
            traceback.print_exc(limit=-6)
            found["tables"].setdefault(name, []).append({"title": name, "rows": [], "note": traceback.format_exc()})
        late = max(clock.seconds - clock.spent(), 0.0) if clock.spent() < clock.seconds else 0.0
        found["seconds"][name] = round(clock.spent(), 1)
        _write(found, options.out)
        print(f"{name}: {clock.spent():.0f} s", flush=True)


def _part(name: str, clock: Clock, quick: bool, found: dict[str, Any], out: Path | None) -> None:
    if name == "memory":
        from benchmarks.gpu.memory import memory

        found["memory"] = memory(quick)
        print(json.dumps(found["memory"]), flush=True)
        return
    for table in _tables(name)(clock, quick):
        found["tables"].setdefault(name, []).append(table)
        _write(found, out)
        print(f"\n[{clock.spent():.0f} s] " + short(table, found.get("memory")), flush=True)


def _tables(name: str) -> Callable[[Clock, bool], Iterator[dict[str, Any]]]:
    """The tables of a part; imported when it runs, so that a fault in one does not stop the others."""
    if name == "head":
        from benchmarks.gpu.head import heads

        return heads
    if name == "step":
        from benchmarks.gpu.step import steps

        return steps
    from benchmarks.gpu.blocks import blocks

    return blocks


def machine() -> dict[str, str]:
    """What it ran on."""
    import jaxlib

    device = jax.devices()[0]
    return {
        "device": device.device_kind, "platform": device.platform, "jax": jax.__version__, "jaxlib": jaxlib.__version__,
        "runtime": getattr(device.client, "platform_version", "").splitlines()[-1][:80],
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def _write(found: dict[str, Any], out: Path | None) -> None:
    if out:
        out.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
