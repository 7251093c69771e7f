"""benchmarks/: every module is found as `python -m benchmarks.NAME` finds it."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

import benchmarks


def test_every_benchmark_is_a_module_that_can_be_run() -> None:
    names = [module.name for module in iter_modules(benchmarks.__path__)]
    assert {"step", "tcp", "nvt"} <= set(names)
    for name in set(names) - {"hardware", "segments"}:
        module = import_module(f"benchmarks.{name}")
        if not hasattr(module, "__path__"):
            assert module.main
            assert f"python -m benchmarks.{name} " in (module.__doc__ or "")
