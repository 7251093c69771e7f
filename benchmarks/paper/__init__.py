"""The paper's studies in small: see docs/oc20.md and `python -m benchmarks.paper --help`."""
