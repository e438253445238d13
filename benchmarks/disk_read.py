"""The disk's direct sequential read speed, printed beside every streamed measurement (disks drift).

    python benchmarks/disk_read.py FOLDER [--max-bytes 1GB] [--rounds 5] [--block 4MiB]

Reads the folder's own safetensors files past the page cache. One line a round; the last line is the median.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone that is not installed

from specdecodes.errors import SpecDecodesError
from specdecodes.offload.store import measure_read, probe, read_index
from specdecodes.units import parse_bytes


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="a checkpoint folder")
    parser.add_argument("--max-bytes", default="1GB", help="bytes read in a round (default: 1GB)")
    parser.add_argument("--block", default="4MiB", help="bytes a read, a multiple of 4096 (default: 4MiB)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: 5)")
    arguments = parser.parse_args()
    try:
        block, most = parse_bytes(arguments.block), parse_bytes(arguments.max_bytes)
        rounds = max(1, arguments.rounds)
        paths = sorted({span.path for span in read_index(arguments.folder).values()})
        storage = probe(paths[0])
        print(storage.reason)
        speeds = [measure_read(paths, direct=storage.direct, max_bytes=most, block=block) for _ in range(rounds)]
    except SpecDecodesError as error:
        print(error, file=sys.stderr)
        return 2
    for number, speed in enumerate(speeds, start=1):
        print(f"round {number}: {speed:.2f} GB/s")
    print(f"median: {statistics.median(speeds):.2f} GB/s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
