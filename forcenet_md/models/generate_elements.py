"""Write elements.csv from mendeleev: `python -m forcenet_md.models.generate_elements`.

Run with mendeleev 0.6.0 (needs six, SQLAlchemy<1.4, pandas<2, numpy<1.24), the version whose
data the reference implementation of ForceNet used; later ones compute valence electrons and
atomic volumes differently. Checked by tests/test_elements.py against the reference's table.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

# Atomic volumes (cm³/mol) that mendeleev 0.6.0 lacks.
MISSING_VOLUME = {61: 20.23, 86: 50.5, 94: 12.29}
# The reference's value where no electron affinity was measured (eV).
MISSING_AFFINITY = -3.0
BLOCK = {"s": 1, "p": 2, "d": 3, "f": 4}

COLUMNS = (
    "number",
    "symbol",
    "group",
    "period",
    "electronegativity_sanderson",
    "covalent_radius_cordero_pm",
    "valence_electrons",
    "ionisation_energy_eV",
    "electron_affinity_eV",
    "block",
    "atomic_volume_cm3_mol",
    "atomic_radius_slater_pm",
)


def row(e: Any) -> list[Any]:
    z = e.atomic_number
    # Groups count on through the lanthanides and actinides: Ce and Th are in 4.
    group = e.group_id if e.group_id is not None else z - (54 if z < 80 else 86)
    affinity = e.electron_affinity if e.electron_affinity is not None else MISSING_AFFINITY
    volume = e.atomic_volume if e.atomic_volume is not None else MISSING_VOLUME.get(z)
    return [
        z,
        e.symbol,
        group,
        e.period,
        e.electronegativity("sanderson"),
        e.covalent_radius_cordero,
        e.nvalence(),
        e.ionenergies.get(1),
        affinity,
        BLOCK[e.block],
        volume,
        e.atomic_radius,
    ]


def main() -> None:
    from mendeleev import element

    path = Path(__file__).with_name("elements.csv")
    with path.open("w", newline="", encoding="utf-8") as f:
        writer = csv.writer(f, lineterminator="\n")
        writer.writerow(COLUMNS)
        for z in range(1, 101):
            writer.writerow(["" if v is None else v for v in row(element(z))])
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
