"""Calculators of other packages as functions with plain options; each is imported when it is made.

All run on one core and without a memory of the structure before, so that a label depends on its
structure alone.
"""

from __future__ import annotations

from pathlib import Path

from ase.calculators.calculator import Calculator

from forcenet_md.errors import DataError


def tblite(
    method: str = "GFN2-xTB",
    charge: float = 0.0,
    accuracy: float = 1.0,
    electronic_temperature: float = 300.0,
    max_iterations: float = 250,
) -> Calculator:
    """Extended tight binding (GFN2-xTB, GFN1-xTB).

    Periodic structures are computed at the Γ point alone: the cell must be large, and metals need
    it larger still. charge: e; electronic_temperature: K. The spin is that of the initial magnetic
    moments.
    """
    from tblite.ase import TBLite

    return TBLite(
        method=method,
        charge=charge,
        accuracy=accuracy,
        electronic_temperature=electronic_temperature,
        max_iterations=int(max_iterations),
        cache_api=False,  # the last structure's density would be the guess for the next
        verbosity=0,
    )


def chgnet(model: str = "0.3.0", device: str = "cpu") -> Calculator:
    """CHGNet. model: a version it ships (0.3.0, r2scan) or the path of one's own file."""
    from chgnet.model import CHGNet, CHGNetCalculator

    if Path(model).is_file():
        network = CHGNet.from_file(model)
    else:
        network = CHGNet.load(model_name=model, use_device=device, verbose=False)
    return CHGNetCalculator(network, use_device=device)


def mace(model: str = "medium-mpa-0", dtype: str = "float64", device: str = "cpu") -> Calculator:
    """MACE. model: the name of a foundation model, which MACE fetches once, or the path of a file.

    Such a file is a pickle, that is a program: use one of an origin you trust.
    """
    from mace.calculators import MACECalculator, mace_mp

    if Path(model).is_file():
        return MACECalculator(model_paths=model, device=device, default_dtype=dtype)
    if Path(model).suffix in (".model", ".pt", ".pth") and "://" not in model:
        raise DataError(f"there is no MACE file {model}: give its path or a model's name.")
    return mace_mp(model=model, device=device, default_dtype=dtype)
