"""The verdict at its thresholds."""

from __future__ import annotations

import pytest

from forcenet_md.simulation.heating import Heating
from forcenet_md.simulation.jacobian import Lambda
from forcenet_md.simulation.jumps import Jumps
from forcenet_md.simulation.verdict import judge, rounded


def heating(rate: float | None, interval: float = 0.0, **other: object) -> Heating:
    values = {
        "rate": rate,
        "interval": None if rate is None else interval,
        "seen_by": "teacher",
        "drift": None,
        "temperature": 300.0,
        "target": 300.0,
        "time": 1.0,
        "timestep": 0.002,
        "n_copies": 4,
        "lost": [],
    }
    return Heating(**(values | other))


def of_lambda(value: float, step_error: float = 1e-6) -> Lambda:
    return Lambda(
        value=value, standard_error=1e-5, frames=[value], norm=1.0, step_error=step_error,
        n_directions=32, n_coordinates=96,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("rate", "words"),
    [
        (
            2.9,
            "NVT with any Langevin τ up to 1 ps (off by up to 1 %); not for NVE, which after",
        ),
        (3.0, "NVT with any Langevin τ up to 1 ps (off by up to 1 %); "),
        (3.1, "NVT with τ ≤ 0.5 ps (Langevin; off by up to 1 %, with 1 ps 3 %); not for NVE"),
        (14.9, "NVT with τ ≤ 0.2 ps (Langevin; off by up to 1 %, with 0.5 ps 3 %); not"),
        (
            15.0,
            "NVT with τ ≤ 0.2 ps (Langevin; off by up to 1 %, with 0.5 ps 3 %); not for NVE, which",
        ),
        (
            15.1,
            "NVT with τ ≤ 0.1 ps (Langevin; off by up to 1 %, with 0.5 ps 3 %); not for NVE, which",
        ),
        (
            -15.1,
            "NVT with τ ≤ 0.1 ps (Langevin; off by up to 1 %, with 0.5 ps 3 %); not for NVE, which",
        ),
        (300.0, "NVT with τ ≤ 0.01 ps (Langevin; off by up to 1 %, with 0.02 ps 3 %); not for NVE"),
        (301.0, "NVT with τ ≤ 0.02 ps (Langevin) is off by up to 3 %; not for NVE"),
        (901.0, "No thermostat holds it: not for MD at this temperature; not for NVE"),
        (
            0.0899,
            "NVT with any Langevin τ up to 1 ps (off by up to 1 %); NVE over 100 ps shifts the",
        ),
        (
            0.0901,
            "NVT with any Langevin τ up to 1 ps (off by up to 1 %); not for NVE, which after 1e+02",
        ),
    ],
)
def test_heating_decides_on_thermostats_and_nve(rate: float, words: str) -> None:
    verdict = judge(heating(rate), None, None, nve=100.0)
    assert verdict.words[0].startswith(words)
    assert verdict.tau_fine == pytest.approx(3.0 / abs(rate))
    assert verdict.tau_tolerable == verdict.nve == pytest.approx(9.0 / abs(rate))


def test_the_far_end_of_the_interval_counts_as_heat() -> None:
    verdict = judge(heating(5.0, 10.0), None, None, nve=100.0)
    assert verdict.tau_fine == pytest.approx(0.2)
    assert verdict.words[0].startswith("NVT with τ ≤ 0.2 ps")
    assert "was not resolved: 5 ± 10 K/ps" in verdict.words[1]
    assert "--teacher" not in verdict.words[1]
    blind = judge(heating(5.0, 10.0, seen_by="temperature"), None, None, nve=100.0)
    assert "--teacher" in blind.words[1]
    clear = judge(heating(5.0, 4.9), None, None, nve=100.0)
    assert clear.words[1] == "Its forces heat at 5 ± 5 K/ps."


def test_drift_of_an_energy_is_told_by_whose_it_is() -> None:
    own = judge(heating(0.01, drift=-0.02, seen_by="model"), None, None, nve=100.0)
    assert own.words[-1] == "It conserves its energy to 0.02 meV per atom and ps (2 fs)."
    taught = judge(heating(0.01, drift=-0.02), None, None, nve=100.0)
    assert (
        taught.words[-1] == "By the teacher's energy the whole drifts by -0.02 meV per atom and ps."
    )


def test_lost_copies_come_first() -> None:
    lost = ["after 0.3 ps it is at 4000 K"]
    verdict = judge(heating(1.0, lost=lost), None, None, nve=100.0)
    assert verdict.words[0] == (
        "Not for MD at 300 K: 1 of 4 copies were lost, the first after 0.3 ps it is at 4000 K"
    )
    assert not any("NVT" in sentence for sentence in verdict.words)
    verdict = judge(heating(None, lost=4 * lost), None, None, nve=100.0)
    assert len(verdict.words) == 1
    assert verdict.tau_fine is None
    assert judge(heating(None), None, None, 100.0).words == [
        "Heating is not known: too little was run."
    ]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0039, "λ = 0.0039: below all that were published (PET has 0.004)."),
        (0.004, "λ = 0.004: between PET (0.004) and ORB (0.015)."),
        (0.016, "λ = 0.016: between ORB (0.015) and Equiformer (0.017)."),
        (0.02, "λ = 0.02: above all that were published (Equiformer has 0.017)."),
        (1e-7, "Its forces are a gradient as far as λ shows: 1e-07."),
    ],
)
def test_lambda_beside_published_values(value: float, words: str) -> None:
    assert judge(None, of_lambda(value), None, 100.0).words == [words]


def test_jumps() -> None:
    def words(largest: float, n: int = 3) -> str:
        jumps = Jumps(largest=largest, change=1e-3, where="Cu–Cu at 5 Å (it)", n_places=n)
        return judge(None, None, jumps, 100.0).words[0]

    assert words(1.1e-5).startswith("Forces jump by 1.1e-05 eV/Å where a neighbour comes or goes")
    assert words(0.9e-5) == "Forces do not jump where neighbours come and go."
    assert words(0.0, n=0).startswith("No pair is near enough")


@pytest.mark.parametrize(
    ("tau", "found"), [(5.0, 1.0), (1.0, 1.0), (0.99, 0.5), (0.01, 0.01), (0.0099, None)]
)
def test_rounding_is_downwards(tau: float, found: float | None) -> None:
    assert rounded(tau) == found
