"""What a model cannot give to a run of i-PI: refused or warned of before it starts."""

from __future__ import annotations

from dataclasses import replace

import pytest
from test_ipi_input import (
    DIRECT,
    FORCE,
    FULL,
    LANGEVIN,
    NVT,
    SOCKET,
    START,
    dynamics,
    folder,  # noqa: F401  used by every test
    motion_of,
    plan,
    system,
)

from forcenet_md.errors import RequestError
from forcenet_md.inference.interface import Capabilities

GRADIENT = replace(DIRECT, name="gradient", conservative=True)
# A conservative force outside, the model's inside: taken out again at the outer level.
OTHER = "<ffsocket name='g' mode='unix'><address> b </address></ffsocket>"
SPLIT = (
    "<force forcefield='g'><mts_weights> [ 1, 0 ] </mts_weights></force>"
    "<force forcefield='f'><mts_weights> [ -1, 1 ] </mts_weights></force>"
)


def refusal(*parts: str, model: Capabilities = DIRECT, **options: object) -> str:
    with pytest.raises(RequestError) as caught:
        plan(*parts, model=model, **options)
    return str(caught.value)


def minimise(mode: str) -> str:
    return motion_of("minimize", f"<optimizer mode='{mode}'/>" if mode else "")


@pytest.mark.parametrize("mode", ["sd", "cg", "bfgs", "lbfgs", ""])
def test_line_searches_need_an_energy(mode: str) -> None:
    words = refusal(SOCKET, system(motion=minimise(mode)))
    assert f"'{mode or 'lbfgs'}'" in words
    assert "bfgstrm" in words
    assert "damped_bfgs" in words
    assert plan(SOCKET, system(motion=minimise(mode)), model=FULL).warnings == ()


@pytest.mark.parametrize("mode", ["bfgstrm", "damped_bfgs"])
def test_minimisers_that_move_by_forces_are_accepted(mode: str) -> None:
    assert plan(SOCKET, system(motion=minimise(mode))).warnings == ()


@pytest.mark.parametrize("mode", ["npt", "nst", "scnpt"])
def test_constant_pressure_needs_a_virial(mode: str) -> None:
    words = refusal(SOCKET, system(motion=dynamics(mode)))
    assert f"mode='{mode}'" in words
    assert f"mode='{'sc' if mode == 'scnpt' else 'nvt'}'" in words
    with_stress = replace(DIRECT, stress=True)
    assert plan(SOCKET, system(motion=dynamics(mode)), model=with_stress).warnings == ()


@pytest.mark.parametrize("mode", ["nvt", "sc", "nvt-cc"])
def test_constant_volume_is_accepted(mode: str) -> None:
    assert plan(SOCKET, system(motion=dynamics(mode))).warnings == ()


@pytest.mark.parametrize(
    "mode", ["neb", "string", "instanton", "atomswap", "al-kmc", "normalmodes"]
)
def test_motions_that_need_an_energy(mode: str) -> None:
    assert f"mode='{mode}'" in refusal(SOCKET, system(motion=motion_of(mode)))
    assert plan(SOCKET, system(motion=motion_of(mode)), model=FULL).warnings == ()


@pytest.mark.parametrize(
    "mode", ["vibrations", "scp", "replay", "dummy", "planetary", "t_ramp", "p_ramp"]
)
def test_motions_that_need_forces_alone(mode: str) -> None:
    assert plan(SOCKET, system(motion=motion_of(mode))).warnings == ()


def test_motions_of_a_multi_are_each_looked_at() -> None:
    swaps = motion_of("multi", NVT + motion_of("atomswap"))
    assert "'atomswap'" in refusal(SOCKET, system(motion=swaps))


def test_alchemy_is_for_isotopes() -> None:
    def exchanging(names: str) -> str:
        inner = f"<alchemy><names> [ {names} ] </names></alchemy>"
        return system(motion=motion_of("multi", NVT + motion_of("alchemy", inner)))

    assert plan(SOCKET, exchanging("H, D")).warnings == ()
    assert "exchanges Au, Cu" in refusal(SOCKET, exchanging("Cu, Au"))
    assert "exchanges Au, Cu" in refusal(SOCKET, exchanging("Cu, Au"), model=FULL)


@pytest.mark.parametrize("outer", ["{}", "<smotion mode='multi'>{}</smotion>"])
def test_replica_exchange_needs_an_energy(outer: str) -> None:
    exchange = outer.format("<smotion mode='remd'><remd><stride> 2 </stride></remd></smotion>")
    assert "replica exchange" in refusal(SOCKET, system(), system(), exchange)
    assert plan(SOCKET, system(), system(), exchange, model=FULL).warnings == ()


def test_metadynamics_is_accepted_unless_it_uses_the_energy() -> None:
    metad = "<smotion mode='metad'><metad><use_energy> {} </use_energy></metad></smotion>"
    assert plan(SOCKET, system(), metad.format("False")).warnings == ()
    assert "use_energy" in refusal(SOCKET, system(), metad.format("True"))


@pytest.mark.parametrize(
    "motion",
    [
        dynamics("nve", ""),
        dynamics("nve"),
        dynamics("nvt", ""),
        dynamics("nvt", "<thermostat mode=''/>"),
        motion_of("dynamics"),
        motion_of("constrained_dynamics", "<constrained_dynamics mode='nve'/>"),
        motion_of(
            "driven_dynamics", f"<driven_dynamics mode='eda-nve'>{LANGEVIN}</driven_dynamics>"
        ),
    ],
)
def test_forces_without_an_energy_heat_without_a_thermostat(motion: str) -> None:
    (warning,) = plan(SOCKET, system(motion=motion)).warnings
    assert "heats up without bound" in warning
    assert "multiple time stepping" in warning
    assert plan(SOCKET, system(motion=motion), model=GRADIENT).warnings == ()


@pytest.mark.parametrize("mode", ["langevin", "pile_l", "ffl", "cl"])
def test_weak_thermostats_are_told(mode: str) -> None:
    def thermostat(tau: int) -> str:
        inner = f"<thermostat mode='{mode}'><tau units='femtosecond'> {tau} </tau></thermostat>"
        return system(motion=dynamics("nvt", inner))

    assert plan(SOCKET, thermostat(200)).warnings == ()
    (warning,) = plan(SOCKET, thermostat(1000)).warnings
    assert "tau 1000 fs" in warning
    assert plan(SOCKET, thermostat(1000), model=GRADIENT).warnings == ()


@pytest.mark.parametrize(("mode", "use"), [("svr", "langevin"), ("pile_g", "pile_l")])
def test_global_thermostats_are_told(mode: str, use: str) -> None:
    motion = dynamics("nvt", LANGEVIN.replace("langevin", mode))
    (warning,) = plan(SOCKET, system(motion=motion)).warnings
    assert f"'{mode}' acts on all atoms as one" in warning
    assert f"'{use}'" in warning
    assert plan(SOCKET, system(motion=motion), model=GRADIENT).warnings == ()


def test_one_local_thermostat_of_several_is_enough() -> None:
    def thermostats(*modes: str) -> str:
        inner = "".join(LANGEVIN.replace("langevin", mode) for mode in modes)
        return system(motion=dynamics("nvt", f"<thermostat mode='multi'>{inner}</thermostat>"))

    assert plan(SOCKET, thermostats("svr", "langevin")).warnings == ()
    assert plan(SOCKET, thermostats("svr", "gle")).warnings == ()
    (warning,) = plan(SOCKET, thermostats("svr", "pile_g")).warnings
    assert "'svr' acts on all atoms as one" in warning


def test_one_strong_thermostat_of_several_is_enough() -> None:
    weak = LANGEVIN.replace("100", "1000")
    both = system(motion=dynamics("nvt", f"<thermostat mode='multi'>{weak}{LANGEVIN}</thermostat>"))
    assert plan(SOCKET, both).warnings == ()
    twice = system(motion=dynamics("nvt", f"<thermostat mode='multi'>{weak}{weak}</thermostat>"))
    assert "tau 1000 fs" in plan(SOCKET, twice).warnings[0]


@pytest.mark.parametrize(
    "motion", [dynamics("nve", ""), dynamics("npt", ""), minimise("lbfgs"), motion_of("atomswap")]
)
def test_a_fast_force_that_is_taken_out_again_is_not_judged(motion: str) -> None:
    (other,) = plan(SOCKET, OTHER, system(motion=motion, forces=SPLIT), forcefield="f").warnings
    assert other.startswith("not served here: g;")


def test_the_slow_force_of_such_a_run_is_judged() -> None:
    run = SOCKET, OTHER, system(motion=dynamics("npt"), forces=SPLIT)
    assert "mode='npt'" in refusal(*run, forcefield="g")


def test_an_energy_from_elsewhere_does_not_help() -> None:
    sum_of_two = system(motion=minimise("bfgs"), forces=FORCE + "<force forcefield='lj'/>")
    assert "searches along lines" in refusal(SOCKET, "<fflj name='lj'/>", sum_of_two)


def test_a_force_without_weight_is_not_judged() -> None:
    forces = "<force forcefield='f' weight='0'/><force forcefield='g'/>"
    plan(SOCKET, "<fflj name='g'/>", system(motion=minimise("bfgs"), forces=forces))


def test_columns_without_a_meaning_are_told() -> None:
    output = (
        "<output><properties> [ step, conserved{electronvolt}, potential, temperature(H),"
        " kinetic_md, pressure_md{bar}, virial_fq ] </properties></output>"
    )
    energy, virial = plan(SOCKET, system(), output).warnings
    assert "has no energy: what i-PI writes as conserved, potential has" in energy
    assert "has no virial: what i-PI writes as pressure_md has" in virial
    assert plan(SOCKET, system(), output, model=FULL).warnings == ()


def test_one_warning_for_many_systems() -> None:
    hot = system(motion=dynamics("nve", ""))
    assert len(plan(SOCKET, hot, hot, hot).warnings) == 1


def setting(field: str, value: object) -> str:
    return SOCKET.replace("</address>", f"</address><{field}> {value} </{field}>")


def test_shared_memory_is_refused() -> None:
    assert "mode='unix'" in refusal(SOCKET.replace("unix", "shm"), system(), model=FULL)


def test_unknown_modes_are_refused() -> None:
    assert "'tcp'" in refusal(SOCKET.replace("unix", "tcp"), system())


def test_batches_and_locked_beads_are_refused() -> None:
    beads = system(start=START.replace("'1'", "'4'"))
    locked = setting("batch_size", 4).replace("mode=", "matching='lock' mode=")
    assert "leave out matching" in refusal(locked, beads)
    assert plan(setting("batch_size", 4), beads).warnings == ()


def test_batches_that_are_never_full_are_told() -> None:
    (warning,) = plan(setting("batch_size", 4), system()).warnings
    assert "<batch_size> 4 is more than the 1 structures" in warning


def test_short_timeouts_are_told() -> None:
    (warning,) = plan(setting("timeout", 1), system()).warnings
    assert "<timeout> 1 s" in warning
    assert plan(setting("timeout", 0), system()).warnings == ()
    assert plan(setting("timeout", 600), system()).warnings == ()


def test_latency_for_many_beads_of_large_systems() -> None:
    names = ", ".join(["Cu"] * 1000)
    beads = f"<beads natoms='1000' nbeads='{{}}'><names> [ {names} ] </names></beads>"
    (warning,) = plan(SOCKET, system(start=beads.format(16))).warnings
    assert "<latency> 2e-3" in warning
    assert "<batch_size> 16" in warning
    assert plan(SOCKET, system(start=beads.format(1))).warnings == ()
    assert plan(setting("latency", "2e-3"), system(start=beads.format(16))).warnings == ()
    assert plan(setting("batch_size", 16), system(start=beads.format(16))).warnings == ()
