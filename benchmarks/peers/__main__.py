"""``python -m benchmarks.peers``: the same as ``python -m benchmarks peers``."""

from benchmarks.peers.command import peers

if __name__ == "__main__":
    peers(prog_name="python -m benchmarks.peers")
