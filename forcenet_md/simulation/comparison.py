"""Two runs beside one another: differences of their figures, and how alike their curves are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

from forcenet_md.errors import DataError
from forcenet_md.simulation.findings import Comparison, Difference, Findings, Likeness
from forcenet_md.simulation.judging import Run
from forcenet_md.simulation.observables import PairDistribution, per_density
from forcenet_md.simulation.statistics import Estimate
from forcenet_md.simulation.vibration import RESOLUTION


def compare(run: Run, against: Run) -> Comparison:
    """Both at the same settings: the fit of the shorter run, the coarser spectrum, neighbours
    within the other run's first minima.

    Raises DataError where the two are not of the same elements.
    """
    check_elements(*((each.findings.name, each.sums.elements) for each in (run, against)))
    windows = [each for each in (run.window, against.window) if each]
    window = min(windows, key=lambda each: each[1]) if len(windows) == 2 else None
    reaches = [each for each in (run.reach, against.reach) if each]
    reach = min(reaches) if len(reaches) == 2 else None
    return Comparison(
        figures=dict(_figures(run, against, window)),
        deviation=_deviation(run, against),
        overlap=_overlap(run, against, reach),
        window=window,
        resolution=RESOLUTION / reach if reach else None,
        missing=list(_missing(run, against, window)),
    )


def check_elements(run: tuple[str, list[str]], against: tuple[str, list[str]]) -> None:
    """Of each its name and elements. Raises DataError where these are not the same."""
    if run[1] != against[1]:
        one, other = (f"{name} has {', '.join(elements)}" for name, elements in (run, against))
        raise DataError(f"{one}, {other}: only runs of the same elements can be compared.")


def difference(run: Estimate, against: Estimate, ratio: bool = False) -> Difference:
    less = run - against
    sigma = None
    if less.error is not None:
        sigma = less.value / less.error if less.error > 0.0 else 0.0 if less.value == 0.0 else None
    quotient = run / against if ratio and against.value != 0.0 else None
    return Difference(run=run, against=against, difference=less, sigma=sigma, ratio=quotient)


def _figures(
    run: Run, against: Run, window: tuple[float, float] | None
) -> Iterator[tuple[str, Difference]]:
    one, other = run.findings, against.findings
    for name in _both(one.temperature, other.temperature):
        mean = difference(one.temperature[name].mean, other.temperature[name].mean)
        yield f"temperature of {name} (K)", mean
    coefficients, theirs_of = run.diffusion(window), against.diffusion(window)
    for name in _both(coefficients, theirs_of):
        mine_of, reference = coefficients[name].coefficient, theirs_of[name].coefficient
        if mine_of is not None and reference is not None:
            yield f"diffusion of {name} (Å²/ps)", difference(mine_of, reference, ratio=True)
    for name in _both(one.energy, other.energy):
        mine, theirs = one.energy[name], other.energy[name]
        yield f"{name} energy per atom (eV)", difference(mine.mean, theirs.mean)
        if mine.drift and theirs.drift:
            yield f"drift of {name} energy (eV/ps)", difference(mine.drift, theirs.drift)
    for pair, found in other.pairs.items():
        if found.first_minimum is None or pair not in one.pairs:
            continue
        near = run.neighbours(pair, found.first_minimum)
        numbers = list(found.neighbours.items())
        # Of as many atoms of either element, A around B are as many as B around A.
        for what, number in numbers[:1] if _as_many(pair, one, other) else numbers:
            named = f"{what} within {found.first_minimum:.2f} Å"
            yield named, difference(near[what], number)


def _as_many(pair: str, *runs: Findings) -> bool:
    return all(len({run.formula[name] for name in pair.split("-")}) == 1 for run in runs)


def _both(one: Mapping[str, object], other: Mapping[str, object]) -> list[str]:
    return [name for name in one if name in other]


def _deviation(run: Run, against: Run) -> dict[str, Likeness]:
    g = comparable(run, against)
    if g is None:
        return {}
    shared = [pair for pair in g[1].g if pair in g[0].g]
    parts = [PairDistribution(each.r, {pair: each.g[pair] for pair in shared}) for each in g]
    one, other = run.findings.pairs, against.findings.pairs
    return {
        pair: Likeness(value=value, noise_run=one[pair].noise, noise_against=other[pair].noise)
        for pair, value in parts[0].deviation(parts[1]).items()
    }


def comparable(run: Run, against: Run) -> tuple[PairDistribution, PairDistribution] | None:
    """g(r) of both; over the density of all atoms where the runs have different numbers of them."""
    one, other = run.curves.g, against.curves.g
    if one is None or other is None:
        return None
    if run.findings.formula == against.findings.formula:
        return one, other
    return per_density(one, _symbols(run)), per_density(other, _symbols(against))


def _symbols(run: Run) -> list[str]:
    return [name for name, n in run.findings.formula.items() for _ in range(n)]


def _overlap(run: Run, against: Run, reach: float | None) -> dict[str, Likeness]:
    if reach is None:
        return {}
    one, other = run.spectrum(reach), against.spectrum(reach)
    if one is None or other is None:
        return {}
    mine, theirs = run.spectrum_noise(reach), against.spectrum_noise(reach)
    return {
        name: Likeness(value=value, noise_run=mine.get(name), noise_against=theirs.get(name))
        for name, value in one.overlap(other).items()
    }


def _missing(run: Run, against: Run, window: tuple[float, float] | None) -> Iterator[str]:
    """What one of the two has alone, or neither."""
    kinds: Mapping[str, str] = {
        "temperature": "velocities",
        "energy": "energies",
        "pairs": "cells that are periodic in all directions",
        "diffusion": "enough frames at even times",
    }
    for kind, needs in kinds.items():
        has = [bool(getattr(each.findings, kind)) for each in (run, against)]
        if has[0] != has[1]:
            name = against.findings.name if has[0] else run.findings.name
            yield f"{kind}: not compared, because {name} has not {needs}."
    lack: dict[str, list[str]] = {}
    for each in (run, against):
        for name, found in each.diffusion(window).items():
            if found.coefficient is None:
                lack.setdefault(name, []).append(each.findings.name)
    for names, whose in groupby(sorted(lack, key=lambda name: lack[name]), lambda n: lack[n]):
        elements = ", ".join(whose)
        yield (
            f"diffusion of {elements}: not compared, because {' and '.join(names)}"
            f" {'has' if len(names) == 1 else 'have'} no coefficient at these lags."
        )
