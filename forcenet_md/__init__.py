"""Force server for LAMMPS and ASE. Units inside: eV, Å, amu, eV/Å³."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forcenet_md.engines.ase_calculator import ForceNetCalculator, ForcesOnly
    from forcenet_md.engines.neb import Band

__version__ = "0.1.0"
__all__ = ["Band", "ForceNetCalculator", "ForcesOnly", "__version__"]


def __getattr__(name: str) -> Any:
    # The command line and every lmp import this package: nothing heavy until it is asked for.
    if name in ("ForceNetCalculator", "ForcesOnly"):
        from forcenet_md.engines import ase_calculator

        return getattr(ase_calculator, name)
    if name == "Band":
        from forcenet_md.engines.neb import Band

        return Band
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
