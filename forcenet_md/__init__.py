"""Force server for LAMMPS, i-PI and ASE. Units inside: eV, Å, amu, eV/Å³."""

__version__ = "0.1.0"
