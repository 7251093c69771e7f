"""Small labelled structures, and files of them as other programs write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator

from forcenet_md.data.labelling import label_frames
from forcenet_md.errors import DataError


def labelled(seed: int, **info: object) -> Atoms:
    """Four atoms of Cu and Au with random labels."""
    rng = np.random.default_rng(seed)
    atoms = bulk("Cu", "fcc", a=3.8, cubic=True)
    atoms.symbols[:2] = "Au"
    atoms.positions += rng.normal(0.0, 0.1, (4, 3))
    label(atoms, rng.normal(size=(4, 3)), float(rng.normal()))
    atoms.info.update(info)
    return atoms


def label(atoms: Atoms, forces: object, energy: float | None = None) -> Atoms:
    atoms.calc = SinglePointCalculator(atoms, forces=np.array(forces), energy=energy)
    return atoms


def write_traj(path: Path, frames: Sequence[Atoms]) -> None:
    """With labels also of structures that were changed after they were labelled."""
    for atoms in frames:
        atoms.calc = SinglePointCalculator(atoms, **atoms.calc.results)
    ase.io.write(path, frames)


def write_dump(path: Path, frames: Sequence[Atoms], *, elements: bool) -> None:
    """As LAMMPS's `dump custom` with `units metal`, for orthogonal cells."""
    lines = []
    for k, atoms in enumerate(frames):
        lines += ["ITEM: TIMESTEP", str(10 * k), "ITEM: NUMBER OF ATOMS", str(len(atoms))]
        lines += ["ITEM: BOX BOUNDS pp pp pp"]
        lines += [f"0.0 {length:.16g}" for length in atoms.cell.lengths()]
        lines += ["ITEM: ATOMS id type x y z fx fy fz" + (" element" if elements else "")]
        for n, atom in enumerate(atoms):
            kind = 1 + (atom.symbol == "Cu")
            row = [*atom.position, *atoms.calc.results["forces"][n]]
            words = [str(n + 1), str(kind), *(f"{v:.17g}" for v in row)]
            lines.append(" ".join(words + ([atom.symbol] if elements else [])))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_outcar(
    path: Path, frames: Sequence[Atoms], steps: Sequence[int] = (), says: Sequence[str] = ()
) -> None:
    """The parts of VASP's OUTCAR that hold structures; atoms come in the order of elements.

    steps: of the electrons, of 5 they may take, in each frame; says: how it says that they ended
    """
    first = frames[0]
    kinds = list(dict.fromkeys(first.symbols))
    counts = [list(first.symbols).count(kind) for kind in kinds]
    lines = [" vasp.6.3.0"]
    lines += [f" POTCAR:    PAW_PBE {kind} 01Jan2000" for kind in [*kinds, *kinds]]
    lines += [f"   VRHFIN ={kind}: d10" for kind in kinds]
    lines += ["   ions per type =  " + " ".join(map(str, counts)), "   ISPIN  =      1", ""]
    lines += ["   NELM   =      5;   NELMIN=  2; NELMDL= -5     # of ELM steps", ""]
    for k, atoms in enumerate(frames):
        for step in range(steps[k] if steps else 1):
            lines += [f"----- Iteration {k + 1:6d}({step + 1:4d})  -----", ""]
        lines += [f"------------------------ {says[k]} ----" if says else ""]
        lines += ["      direct lattice vectors                 reciprocal lattice vectors"]
        for row in atoms.cell:
            lines.append("".join(f"{v:13.9f}" for v in (*row, 0.0, 0.0, 0.0)))
        lines += ["", " POSITION                                       TOTAL-FORCE (eV/Angst)"]
        lines += [" " + "-" * 83]
        for position, force in zip(atoms.positions, atoms.calc.results["forces"], strict=True):
            lines.append("".join(f"{v:14.5f}" for v in (*position, *force)))
        lines += [" " + "-" * 83, ""]
        energy = atoms.calc.results["energy"]
        lines += ["  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)", "  " + "-" * 51]
        lines += [f"  free  energy   TOTEN  =  {energy:18.8f} eV", ""]
        lines += [
            f"  energy  without entropy= {energy:18.8f}  energy(sigma->0) = {energy:18.8f}",
            "",
        ]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_vasprun(
    path: Path, frames: Sequence[Atoms], held: Sequence[bool], steps: Sequence[int] = ()
) -> None:
    """The parts of VASP's vasprun.xml that hold structures. held: atoms of selective dynamics;
    steps: of the electrons, of 5 they may take, in each frame"""

    def rows(name: str, values: object) -> str:
        lines = [" ".join(f"{v:.16g}" for v in row) for row in np.asarray(values)]
        return f'<varray name="{name}">' + "".join(f"<v>{v}</v>" for v in lines) + "</varray>"

    def structure(atoms: Atoms, more: str = "") -> str:
        inside = rows("basis", atoms.cell.array) + f'<i name="volume">{atoms.get_volume()}</i>'
        scaled = rows("positions", atoms.get_scaled_positions(wrap=False))
        return f"<structure><crystal>{inside}</crystal>{scaled}{more}</structure>"

    names = "".join(f"<rc><c>{symbol}</c><c>1</c></rc>" for symbol in frames[0].symbols)
    flags = "".join(f"<v>{' '.join(['F' if h else 'T'] * 3)}</v>" for h in held)
    parts = [
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<modeling>',
        '<parameters><separator name="electronic"><i type="int" name="NELM"> 5</i></separator>'
        "</parameters>",
        f"<kpoints>{rows('kpointlist', [[0, 0, 0]])}{rows('weights', [[1]])}</kpoints>",
        f'<atominfo><array name="atoms"><set>{names}</set></array></atominfo>',
        structure(frames[0], f'<varray name="selective">{flags}</varray>').replace(
            "<structure>", '<structure name="initialpos">'
        ),
    ]
    for k, atoms in enumerate(frames):
        energy = f"{atoms.calc.results['energy']:.16g}"
        kinds = "".join(
            f'<i name="{name}">{energy}</i>' for name in ("e_fr_energy", "e_wo_entrp", "e_0_energy")
        )
        scstep = f"<scstep><energy>{kinds}</energy></scstep>"
        parts.append(
            f"<calculation>{scstep * (steps[k] if steps else 1)}{structure(atoms)}"
            f"{rows('forces', atoms.calc.results['forces'])}<energy>{kinds}</energy></calculation>"
        )
    path.write_text("\n".join([*parts, "</modeling>\n"]), encoding="utf-8")


def label_all(
    frames: Sequence[Atoms],
    spec: str | Path,
    elements: Sequence[str] = (),
    workers: int = 1,
    timeout: float | None = None,
) -> list[Atoms]:
    """Labelled copies in order. Raises DataError with the number of a frame that fails, too."""
    outcomes = {}
    for outcome in label_frames(frames, spec, elements, workers, timeout):
        if outcome.atoms is None:
            raise DataError(f"frame {outcome.number}: {outcome.reason}")
        outcomes[outcome.number] = outcome.atoms
    return [outcomes[number] for number in sorted(outcomes)]
