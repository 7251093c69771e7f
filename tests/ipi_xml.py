"""Inputs of i-PI for tests, put together from pieces."""

from __future__ import annotations

from collections.abc import Sequence

STRUCTURE = "start.extxyz"
SCALARS = ("step", "conserved", "potential", "kinetic_md", "pressure_md")
VECTORS = ("positions", "velocities", "forces")


def simulation(
    fields: Sequence[str], systems: str, steps: int, more: str = "", threads: bool = False
) -> str:
    """Writes the scalars of every step, and the vectors with all their digits of five.

    threads: all systems at once, and not in turn, so that random numbers have no order
    """
    stride = max(1, steps // 4)
    trajectories = "".join(
        f"<trajectory stride='{stride}' filename='{what}' format='bin'> {what} </trajectory>\n"
        for what in VECTORS
    )
    return f"""
<simulation verbosity='low' threading='{threads}'>
  <output prefix='out'>
    <properties stride='1' filename='scalars'> [ {", ".join(SCALARS)} ] </properties>
    {trajectories}
  </output>
  <total_steps> {steps} </total_steps>
  <prng> <seed> 4711 </seed> </prng>
  {"".join(fields)}
  {systems}
  {more}
</simulation>
"""


def system(
    motion: str,
    prefix: str = "",
    beads: int = 1,
    forces: str = "<force forcefield='model'/>",
    temperature: float = 300.0,
    ensemble: str = "",
    more: str = "",
    structure: str = STRUCTURE,
) -> str:
    """A <system> that starts from the structure with thermal velocities.

    motion: of `dynamics` or `minimise`; ensemble, more: inside of <ensemble>, of <system>
    """
    return f"""
  <system prefix='{prefix}'>
    <initialize nbeads='{beads}'>
      <file mode='ase'> {structure} </file>
      <velocities mode='thermal' units='kelvin'> {temperature} </velocities>
    </initialize>
    <forces> {forces} </forces>
    <ensemble> <temperature units='kelvin'> {temperature} </temperature> {ensemble} </ensemble>
    {motion}
    {more}
  </system>"""


def dynamics(mode: str, elements: str = "", timestep: float = 2.0, more: str = "") -> str:
    """more: beside <dynamics>, as <fixatoms>."""
    return f"""<motion mode='dynamics'>
      <dynamics mode='{mode}'>
        <timestep units='femtosecond'> {timestep} </timestep> {elements}
      </dynamics> {more}
    </motion>"""


def minimise(mode: str, tolerance: float, elements: str = "", more: str = "") -> str:
    """tolerance: of energy, force and position, in atomic units."""
    return f"""<motion mode='minimize'>
      <optimizer mode='{mode}'>
        <tolerances>
          <energy> {tolerance} </energy> <force> {tolerance} </force>
          <position> {tolerance} </position>
        </tolerances> {elements}
      </optimizer> {more}
    </motion>"""


def thermostat(mode: str, tau: float = 100.0, elements: str = "") -> str:
    return f"""<thermostat mode='{mode}'>
          <tau units='femtosecond'> {tau} </tau> {elements}
        </thermostat>"""


def barostat(mode: str, tau: float = 200.0, elements: str = "") -> str:
    return f"""<barostat mode='{mode}'>
          <tau units='femtosecond'> {tau} </tau> {thermostat("langevin")} {elements}
        </barostat>"""


def pressure(gigapascal: float) -> str:
    return f"<pressure units='gigapascal'> {gigapascal} </pressure>"
