"""Ours beside other sandboxes for Python, each in a virtual environment of its own, in one run: ``python -m benchmarks.peers``."""
