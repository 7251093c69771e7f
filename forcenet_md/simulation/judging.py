"""A run that has been summed up: its curves, its figures, and both at another run's settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from forcenet_md.simulation.analysis import Analysis, Settings, analyse
from forcenet_md.simulation.coordination import first_minimum, neighbours_within
from forcenet_md.simulation.displacement import (
    EARLIEST,
    PARTS,
    Diffusion,
    diffusion,
    slope_after,
)
from forcenet_md.simulation.findings import Drift, Drifting, Findings, Pair
from forcenet_md.simulation.observables import PairDistribution
from forcenet_md.simulation.remarks import remarks_on
from forcenet_md.simulation.statistics import Array, Estimate, from_blocks, mean_of, slope_of
from forcenet_md.simulation.trajectory import Trajectory
from forcenet_md.simulation.vibration import (
    ALL,
    RESOLUTION,
    Autocorrelation,
    Spectrum,
    spectrum,
)

AT_REST = 0.01  # of the temperature: a centre of mass colder than this is held
FIT = (1.0 / 32.0, 1.0 / 16.0)  # of the run
PLACES = 9  # of a time in ps: a millionth of a fs
MIN_LAGS = 8  # of a velocity autocorrelation with a spectrum


@dataclass(frozen=True, slots=True)
class Curves:
    """What is drawn and compared. r in Å, lags and times in ps.

    g: or None; halves: g of the two halves; temperatures: [n_frames] K by name
    msd: [n_lags] Å² by element, at lags `lag`; vacf: [n] Å²/ps² at lags `vacf_lag`
    """

    time: Array
    temperatures: dict[str, Array]
    energies: dict[str, Array]
    g: PairDistribution | None
    halves: list[PairDistribution]
    lag: Array
    msd: dict[str, Array]
    vacf_lag: Array
    vacf: dict[str, Array]
    spectrum: Spectrum | None


class Run:
    """A run that has been summed up, with its figures.

    neighbours and spectrum at another run's settings are asked of it in a comparison.
    """

    def __init__(
        self,
        sums: Analysis,
        name: str,
        sources: list[str],
        remarks: list[str],
        complete: bool = True,
    ) -> None:
        self.sums = sums
        self._scale, at_rest = _degrees_of_freedom(sums)
        self._correlated = _correlated(sums)
        self.curves = self._curves()
        found = self._findings(name, sources, remarks, complete, at_rest)
        said = [*remarks, *remarks_on(sums, found)]
        self.findings = found.model_copy(update={"remarks": said})

    def neighbours(self, pair: str, radius: float) -> dict[str, Estimate]:
        """Mean numbers within a radius (Å): of 'B around A' and 'A around B'."""
        sums, found = self.sums, {}
        a, b = (sums.elements.index(name) for name in pair.split("-"))
        for around, of in {(a, b), (b, a)}:

            def number(counts: Array, i: int = around, j: int = of) -> float:
                each = counts[1, i, j] / sums.pairs.atoms_of[i]
                return neighbours_within(sums.pairs.limits, each, radius)

            whole = number(sums.pair_blocks.means(1)[0])
            parts = [number(part) for part in sums.pair_blocks.means(PARTS)]
            found[f"{sums.elements[of]} around {sums.elements[around]}"] = from_blocks(whole, parts)
        return dict(sorted(found.items()))

    def spectrum(self, reach: float, half: int | None = None) -> Spectrum | None:
        """With a window that ends at a lag of reach ps; of the run or of one of its halves."""
        spacing = self.sums.even_velocities.spacing
        if self._correlated is None or spacing is None:
            return None
        of = self._correlated.vacf if half is None else self._correlated.halves[half]
        found = spectrum(self._named(of), spacing, reach)
        return found if found.density else None  # where nothing moves

    def _named(self, vacf: Array) -> dict[str, Array]:
        """[n_lags] of each element that moves, and of all atoms, weighted by their masses."""
        sums, found = self.sums, {}
        total, weight = np.zeros(len(vacf)), 0.0
        for k, name in enumerate(sums.elements):
            mine = sums.of_kind(k) & ~sums.held
            if mine.any():
                found[name] = vacf[:, k]
                total += sums.masses[mine].sum() * vacf[:, k]
                weight += float(sums.masses[mine].sum())
        return found | {ALL: total / weight}

    def spectrum_noise(self, reach: float | None) -> dict[str, float]:
        """Overlap of the spectra of the two halves."""
        if reach is None or self._correlated is None or len(self._correlated.halves) < 2:
            return {}
        one, other = (self.spectrum(reach, half) for half in (0, 1))
        return one.overlap(other) if one is not None and other is not None else {}

    @property
    def window(self) -> tuple[float, float] | None:
        """ps: lags that the mean square displacement is fitted between, if not told otherwise."""
        if self._duration == 0.0 or not self.curves.msd:
            return None
        low, high = FIT
        begin = min(max(low * self._duration, EARLIEST), 0.25 * self._duration)
        return self.sums.settings.fit or (begin, begin * high / low)

    @property
    def _duration(self) -> float:
        """ps"""
        time = self.sums.times.time
        return time[-1] - time[0] if time else 0.0

    def diffusion(self, window: tuple[float, float] | None) -> dict[str, Diffusion]:
        """Of each element, with errors from blocks twice as long as the window reaches."""
        sums, spacing = self.sums, self.sums.even.spacing
        if window is None or spacing is None:
            return {}
        parts = int(np.clip(self._duration / (2.0 * window[1]) + 1e-9, 1, PARTS))
        earliest = 0.0 if sums.settings.fit else EARLIEST
        found, each = sums.displacements.result(parts), {}
        lag = found.times(spacing)
        for name in self.curves.msd:
            k = sums.elements.index(name)
            msd, mine = found.total[:, k], [part[:, k] for part in found.parts]
            n_atoms = int(sums.of_kind(k)[sums.moving].sum())
            later = slope_after(lag, msd, window[1], self._duration, n_atoms)
            each[name] = diffusion(lag, msd, mine, window, later, earliest)
        return {name: one for name, one in each.items() if one is not None}

    @property
    def reach(self) -> float | None:
        """ps: the longest lag of the velocity autocorrelation."""
        lags = self.curves.vacf_lag
        return float(lags[-1]) if len(lags) else None

    def _curves(self) -> Curves:
        sums = self.sums
        g, halves = _distributions(sums)
        found = sums.displacements.result()
        spacing = sums.even.spacing or 0.0
        short = found.lag * 2 <= max(sums.n_frames, 2)  # later lags are of a few origins
        moves = [k for k in range(len(sums.elements)) if (sums.of_kind(k) & ~sums.held).any()]
        names = {k: sums.elements[k] for k in moves}
        vacf, lags, density = {}, np.empty(0), None
        if self._correlated is not None:
            vacf = self._named(self._correlated.vacf)
            spacing_of_lags = sums.even_velocities.spacing or 0.0
            lags = np.arange(float(len(self._correlated.vacf))) * spacing_of_lags
            density = self.spectrum(float(lags[-1]))
        return Curves(
            time=np.array(sums.times.time),
            temperatures={
                name: np.array(values) * self._scale[name]
                for name, values in sums.temperatures.values.items()
            },
            energies={
                name: np.array(values) / len(sums.numbers)
                for name, values in sums.energies.values.items()
            },
            g=g,
            halves=halves,
            lag=found.times(spacing)[short],
            msd={name: found.total[short, k] for k, name in names.items()},
            vacf_lag=lags,
            vacf=vacf,
            spectrum=density,
        )

    def _findings(
        self,
        name: str,
        sources: list[str],
        remarks: list[str],
        complete: bool,
        at_rest: bool | None,
    ) -> Findings:
        sums, curves = self.sums, self.curves
        time = curves.time
        moved = None
        if len(sums.centres) > 1:
            length = round(float(np.linalg.norm(sums.centres[-1] - sums.centres[0])), PLACES)
            moved = Drift(distance=length, per_ps=length / float(time[-1] - time[0]))
        return Findings(
            name=name,
            sources=sources,
            formula={e: int(sums.of_kind(k).sum()) for k, e in enumerate(sums.elements)},
            n_atoms=len(sums.numbers),
            n_held=int(sums.held.sum()),
            n_frames=sums.n_frames,
            complete=complete,
            begins=round(float(time[0]), PLACES) if len(time) else None,
            ends=round(float(time[-1]), PLACES) if len(time) else None,
            spacing=sums.even.spacing,
            centre_at_rest=at_rest,
            temperature=_drifting(sums.temperatures.time, curves.temperatures),
            energy=_drifting(sums.energies.time, curves.energies),
            pairs=dict(self._pairs()),
            diffusion=self.diffusion(self.window),
            centre_of_mass=moved,
            spectrum_resolution=RESOLUTION / self.reach if self.reach else None,
            spectrum_noise=self.spectrum_noise(self.reach),
            remarks=remarks,
        )

    def _pairs(self) -> Iterator[tuple[str, Pair]]:
        g, halves = self.curves.g, self.curves.halves
        if g is None:
            return
        noise = halves[0].deviation(halves[1]) if len(halves) == 2 else {}
        for pair, values in g.g.items():
            one, other = (self.sums.elements.index(name) for name in pair.split("-"))
            seen = self.sums.pair_blocks.total[1, one, other]
            radius = first_minimum(g.r, values, seen)
            yield (
                pair,
                Pair(
                    first_peak=None if radius is None else _highest(g.r, values, radius),
                    first_minimum=radius,
                    neighbours={} if radius is None else self.neighbours(pair, radius),
                    noise=noise.get(pair),
                ),
            )


def _correlated(sums: Analysis) -> Autocorrelation | None:
    if sums.correlation is None or sums.correlation.n_frames < 4 * MIN_LAGS:
        return None
    return sums.correlation.result()


def _distributions(sums: Analysis) -> tuple[PairDistribution | None, list[PairDistribution]]:
    if not len(sums.pair_blocks):
        return None, []
    whole, *_ = sums.pair_blocks.means(1)
    halves = sums.pair_blocks.means(2)
    return (
        sums.pairs.distribution(whole[0]),
        [sums.pairs.distribution(half[0]) for half in halves] if len(halves) == 2 else [],
    )


def _highest(r: Array, g: Array, radius: float) -> float:
    return float(r[np.argmax(np.where(r < radius, g, 0.0))])


def _drifting(time: list[float], series: dict[str, Array]) -> dict[str, Drifting]:
    return {
        name: Drifting(
            mean=mean_of(values),
            drift=slope_of(np.array(time), values) if len(time) == len(values) else None,
        )
        for name, values in series.items()
    }


def _degrees_of_freedom(sums: Analysis) -> tuple[dict[str, float], bool | None]:
    """What temperatures with three degrees of freedom per atom are to be multiplied with, by name;
    and whether the centre of mass is at rest."""
    scale = dict.fromkeys(sums.temperatures.values, 1.0)
    if not sums.centre_heat:
        return scale, None
    mean = float(np.mean(sums.temperatures.values[ALL]))
    if sums.held.any() or len(sums.numbers) < 2 or np.mean(sums.centre_heat) >= AT_REST * mean:
        return scale, False
    total = float(sums.masses.sum())
    for k, name in enumerate(sums.elements):
        scale[name] = 1.0 / (1.0 - float(sums.masses[sums.of_kind(k)].mean()) / total)
    scale[ALL] = 1.0 / (1.0 - 1.0 / len(sums.numbers))
    return scale, True


def judge(
    trajectory: Trajectory,
    name: str,
    settings: Settings | None = None,
    progress: Callable[[int], None] = lambda done: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Run:
    """Read and sum up a run; progress and stopped as of `analyse`. Raises DataError."""
    sums = analyse(trajectory, settings, progress, stopped)
    sources = [str(path) for path in trajectory.paths]
    return Run(sums, name, sources, trajectory.remarks, complete=not stopped())
