"""Generation of Darcy data at 421 x 421: two workers against one, and what writing costs.

Starting workers takes two to three seconds, so few samples say little. The share of writing is the
time that the one process of the first run spends in the writer.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from pde_data.generate import GenerateConfig, generate
from pde_data.hdf5 import ShardWriter, open_dataset


def run(root: Path, n: int, resolution: int, workers: int) -> tuple[float, float]:
    """Wall time of a generation and the time inside `ShardWriter.add` and its end."""
    spent = [0.0]
    add, leave = ShardWriter.add, ShardWriter.__exit__

    def timed(method):
        def wrapper(*args, **kwargs):
            start = time.perf_counter()
            try:
                return method(*args, **kwargs)
            finally:
                spent[0] += time.perf_counter() - start

        return wrapper

    ShardWriter.add, ShardWriter.__exit__ = timed(add), timed(leave)
    try:
        start = time.perf_counter()
        generate(
            GenerateConfig(
                problem="darcy", out=root, n=n, n_valid=1, n_test=1, resolution=resolution,
                workers=workers,
            )
        )  # fmt: skip
        return time.perf_counter() - start, spent[0]
    finally:
        ShardWriter.add, ShardWriter.__exit__ = add, leave


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=1024)
    parser.add_argument("--resolution", type=int, default=421)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as tmp:
        run(Path(tmp) / "warm", 2, args.resolution, 1)  # compiled kernels are loaded
        one, writing = run(Path(tmp) / "one", args.n, args.resolution, 1)
        two, _ = run(Path(tmp) / "two", args.n, args.resolution, 2)
        digests = [open_dataset(Path(tmp) / d).content_digest for d in ("one", "two")]
        if digests[0] != digests[1]:
            raise SystemExit("the data depend on the number of workers")
    print(f"darcy {args.resolution} x {args.resolution}, {args.n} samples")
    print(f"one worker   {one:7.1f} s, {args.n / one:6.1f} samples/s")
    print(f"two workers  {two:7.1f} s, ratio {one / two:.2f} (required 1.7 on two idle cores)")
    print(f"writing      {100 * writing / one:7.1f} % of the time of one worker (required < 10)")


if __name__ == "__main__":
    main()
