"""What a probe's figures mean for a long run, in words.

Forces that put in heat at a rate r (K/ps, see heating.py) shift a run by r·t after a time t at
constant energy, and by r·τ for good under a Langevin thermostat of time constant τ. Both are held
against the temperature with r at the far end of its 95 % interval.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from forcenet_md.blocking import with_error
from forcenet_md.simulation.heating import Heating
from forcenet_md.simulation.jacobian import Lambda
from forcenet_md.simulation.jumps import Jumps

FINE, TOLERABLE = 0.01, 0.03  # of the temperature
ROUND = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)  # ps; a shorter one is no dynamics any more
# Bigi, Langer and Ceriotti, arXiv:2412.11569
KNOWN = (("PET", 0.004), ("ORB", 0.015), ("Equiformer", 0.017))


class Verdict(BaseModel):
    """words: one sentence each, what to do first
    tau_fine, tau_tolerable: ps, that keep a Langevin run within 1 % and 3 % of its temperature
    nve: ps at constant energy within 3 %; None of all three where heating is not known
    """

    words: list[str]
    tau_fine: float | None = None
    tau_tolerable: float | None = None
    nve: float | None = None


def judge(
    heating: Heating | None, found: Lambda | None, jumps: Jumps | None, nve: float
) -> Verdict:
    """nve: ps at constant energy that the user has in mind"""
    verdict = Verdict(words=[])
    if heating is not None:
        if heating.rate is not None and heating.interval is not None:
            most = max(abs(heating.rate) + heating.interval, 1e-12)
            verdict.tau_fine = FINE * heating.target / most
            verdict.tau_tolerable = TOLERABLE * heating.target / most
            verdict.nve = verdict.tau_tolerable
        verdict.words += of_heating(heating, verdict, nve)
    if found is not None:
        verdict.words += of_lambda(found)
    if jumps is not None:
        verdict.words += of_jumps(jumps)
    return verdict


def of_heating(heating: Heating, verdict: Verdict, nve: float) -> Iterator[str]:
    target = f"{heating.target:g} K"
    if heating.lost:
        n, of = len(heating.lost), heating.n_copies
        yield f"Not for MD at {target}: {n} of {of} copies were lost, the first {heating.lost[0]}"
    if heating.rate is None or heating.interval is None:
        if not heating.lost:
            yield "Heating is not known: too little was run."
        return
    if not heating.lost:
        yield f"{_nvt(verdict)}; {_nve(verdict, nve)}."
    rate, interval, drift = heating.rate, heating.interval, heating.drift
    if abs(rate) < interval:
        blind = heating.seen_by == "temperature"
        wider = ", and a --teacher, or more --time and --copies, will widen them" if blind else ""
        yield (
            f"Heating was not resolved: {with_error(rate, interval)} K/ps; the limits are for its"
            f" upper end{wider}."
        )
    else:
        verb = "heat" if rate > 0.0 else "cool"
        yield f"Its forces {verb} at {with_error(abs(rate), interval)} K/ps."
    if drift is not None and heating.seen_by == "model":
        step = f"{1000.0 * heating.timestep:g} fs"
        yield f"It conserves its energy to {abs(drift):.2g} meV per atom and ps ({step})."
    elif drift is not None:
        yield f"By the teacher's energy the whole drifts by {drift:.2g} meV per atom and ps."


def _nvt(verdict: Verdict) -> str:
    assert verdict.tau_fine is not None
    assert verdict.tau_tolerable is not None
    fine, tolerable = rounded(verdict.tau_fine), rounded(verdict.tau_tolerable)
    if tolerable is None:
        return "No thermostat holds it: not for MD at this temperature"
    if fine is None:
        return f"NVT with τ ≤ {tolerable:g} ps (Langevin) is off by up to 3 %"
    if fine == ROUND[0]:
        return f"NVT with any Langevin τ up to {fine:g} ps (off by up to 1 %)"
    if tolerable == fine:
        return f"NVT with τ ≤ {fine:g} ps (Langevin; off by up to 1 %)"
    return f"NVT with τ ≤ {fine:g} ps (Langevin; off by up to 1 %, with {tolerable:g} ps 3 %)"


def _nve(verdict: Verdict, nve: float) -> str:
    assert verdict.nve is not None
    if verdict.nve >= nve:
        return f"NVE over {nve:g} ps shifts the temperature by less than 3 %"
    return f"not for NVE, which after {verdict.nve:.2g} ps may be off by 3 %"


def rounded(tau: float) -> float | None:
    """The largest round time constant, ps, that is not longer; None below all of them."""
    return next((each for each in ROUND if each <= tau * (1.0 + 1e-9)), None)


def of_lambda(found: Lambda) -> Iterator[str]:
    if not found.seen:
        yield f"Its forces are a gradient as far as λ shows: {found.value:.1g}."
        return
    below = [name for name, value in KNOWN if value <= found.value]
    above = [f"{name} has {value:g}" for name, value in KNOWN if value > found.value]
    if not below:
        where = f"below all that were published ({above[0]})"
    elif not above:
        where = f"above all that were published ({KNOWN[-1][0]} has {KNOWN[-1][1]:g})"
    else:
        where = f"between {below[-1]} ({dict(KNOWN)[below[-1]]:g}) and {above[0].split()[0]}"
        where += f" ({dict(KNOWN)[above[0].split()[0]]:g})"
    yield f"λ = {found.value:.2g}: {where}."


def of_jumps(jumps: Jumps) -> Iterator[str]:
    if not jumps.n_places:
        yield "No pair is near enough to the cutoff to look for jumps there."
    elif jumps.seen:
        yield (
            f"Forces jump by {jumps.largest:.2g} eV/Å where a neighbour comes or goes"
            f" ({jumps.where}): no run conserves energy across it."
        )
    else:
        yield "Forces do not jump where neighbours come and go."
