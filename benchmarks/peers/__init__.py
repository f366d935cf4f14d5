"""safeexec beside other executors, on one machine, in one run: ``python -m benchmarks.peers``."""
