"""Velocity autocorrelation of each element in one pass over a run, and its spectrum."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from ase import units as u
from numpy.typing import NDArray
from scipy.fft import irfft, next_fast_len, rfft
from scipy.signal.windows import parzen

from forcenet_md.simulation.statistics import Array, Blocks

ATOMS_AT_ONCE = 64
ALL = "all"
CM1_PER_THZ = 1e12 * 1e-2 / u._c  # wave numbers in cm⁻¹ of one THz
RESOLUTION = 1.27  # width of a line times the lag where the window ends
STEPS_OF_RESOLUTION = 4  # points of a spectrum for each width that the window has


class Correlation:
    """⟨v(0)·v(t)⟩ of each element, at lags below n_lags frames.

    Frames are taken in chunks of n_lags; those of one chunk are the origins of products with its
    own and the next one's, by FFT, so that every origin has every lag. Memory: 48 bytes an atom
    and lag.
    """

    def __init__(self, kind: NDArray[np.int64], n_kinds: int, n_lags: int) -> None:
        """kind: [n_atoms] number of each atom's element"""
        self._kind, self._n_kinds, self._n_lags = kind, n_kinds, n_lags
        self._in_kind = np.maximum(np.bincount(kind, minlength=n_kinds), 1)
        self._kept = np.empty((2 * n_lags, len(kind), 3))
        self._n = 0
        self._blocks = Blocks((n_lags, n_kinds + 1))  # the last column counts origins
        self.n_frames = 0

    def add(self, velocities: Array) -> None:
        """The next frame: [n_atoms, 3] Å/ps."""
        self._kept[self._n] = velocities
        self._n += 1
        self.n_frames += 1
        if self._n == 2 * self._n_lags:
            self._correlate()
            self._kept[: self._n_lags] = self._kept[self._n_lags :]
            self._n = self._n_lags

    def restart(self) -> None:
        """At a gap, or at the end: no product is taken across it."""
        if self._n:
            self._correlate()
        if self._n > self._n_lags:  # the second chunk's frames among themselves
            self._kept[: self._n - self._n_lags] = self._kept[self._n_lags : self._n]
            self._n -= self._n_lags
            self._correlate()
        self._n = 0

    def result(self) -> Autocorrelation:
        """At lags up to a quarter of the frames."""
        self.restart()
        most = max(min(self._n_lags, self.n_frames // 4), 1)
        parts = self._blocks.parts(2)
        return Autocorrelation(
            _averaged(self._blocks.total[:most]), [_averaged(part[:most]) for part in parts]
        )

    def _correlate(self) -> None:
        origins = min(self._n, self._n_lags)
        n_lags = min(self._n, self._n_lags)
        length = next_fast_len(self._n + self._n_lags, real=True)
        sums = np.zeros((self._n_lags, self._n_kinds + 1))
        for first in range(0, len(self._kind), ATOMS_AT_ONCE):
            atoms = slice(first, first + ATOMS_AT_ONCE)
            later = rfft(self._kept[: self._n, atoms], length, axis=0)
            now = rfft(self._kept[:origins, atoms], length, axis=0)
            products = irfft(np.einsum("fac,fac->fa", now.conj(), later), length, axis=0)
            for kind, column in zip(self._kind[atoms], products[:n_lags].T, strict=True):
                sums[:n_lags, kind] += column / self._in_kind[kind]
        sums[:n_lags, -1] = np.minimum(origins, self._n - np.arange(n_lags))
        self._blocks.add(sums)


@dataclass(frozen=True, slots=True)
class Autocorrelation:
    """vacf: [n_lags, n_kinds] Å²/ps²; halves: the same of the run's halves, or of it alone."""

    vacf: Array
    halves: list[Array]


def _averaged(sums: Array) -> Array:
    with np.errstate(invalid="ignore"):
        return np.nan_to_num(sums[:, :-1] / sums[:, -1:])


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Vibrational density of states: for each element the fraction of its motion per THz.

    frequency: [n] THz, up to half the frames' rate; density: [n] by name, each with an integral
    of 1; "all" is that of the atoms together, weighted by their masses
    """

    frequency: Array
    density: dict[str, Array]

    def overlap(self, other: Spectrum) -> dict[str, float]:
        """∫ min of the two, 1 where they are the same, of the names that both have."""
        common = self.frequency[self.frequency <= other.frequency[-1]]
        found = {}
        for name in self.density.keys() & other.density.keys():
            theirs = np.interp(common, other.frequency, other.density[name])
            found[name] = float(
                np.trapezoid(np.minimum(self.density[name][: len(common)], theirs), common)
            )
        return dict(sorted(found.items()))


def spectrum(vacf: Mapping[str, Array], spacing: float, reach: float) -> Spectrum:
    """The cosine transform of the autocorrelation under Parzen's window, which leaves no negative
    side lobes and blurs a line to a width of 1.27 / reach.

    vacf: [n_lags] Å²/ps² by name; spacing: ps between lags; reach: ps, where the window ends
    """
    values = np.column_stack(list(vacf.values()))
    n = min(max(2, round(reach / spacing) + 1), len(values))
    window = parzen(2 * n - 1)[n - 1 :]
    length = next_fast_len(2 * STEPS_OF_RESOLUTION * n, real=True)
    even = np.zeros((length, len(vacf)))
    even[:n] = values[:n] * window[:, None]
    even[length - n + 1 :] = even[1:n][::-1]
    frequency = np.asarray(np.fft.rfftfreq(length, spacing), dtype=np.float64)
    density = rfft(even, axis=0).real
    area = np.trapezoid(density, frequency, axis=0)
    return Spectrum(
        frequency,
        {name: density[:, k] / area[k] for k, name in enumerate(vacf) if area[k] > 0.0},
    )
