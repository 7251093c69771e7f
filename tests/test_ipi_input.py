"""What is read of i-PI's input before a run, what is refused and what is warned of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import bulk, molecule

from forcenet_md.engines.ipi_input import read_input
from forcenet_md.engines.ipi_plan import Plan, make_plan
from forcenet_md.engines.ipi_xml import femtoseconds, parse_xml
from forcenet_md.errors import AddressError, DataError, RequestError, UnknownElementError
from forcenet_md.inference.interface import Capabilities, Kind

KNOWN = frozenset({1, 6, 8, 29, 79})
DIRECT = Capabilities("direct", KNOWN, 6.0, energy=False, stress=False, conservative=False)
FULL = Capabilities("full", KNOWN, 6.0, energy=True, stress=True, conservative=True)
SOCKET = "<ffsocket name='f' mode='unix'><address> a </address></ffsocket>"
LANGEVIN = "<thermostat mode='langevin'><tau units='femtosecond'> 100 </tau></thermostat>"
NVT = f"<motion mode='dynamics'><dynamics mode='nvt'>{LANGEVIN}</dynamics></motion>"
START = "<initialize nbeads='1'><file mode='ase'> cu.extxyz </file></initialize>"
FORCE = "<force forcefield='f'/>"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    bulk("Cu", cubic=True).write("cu.extxyz")
    return tmp_path


def system(motion: str = NVT, start: str = START, forces: str = FORCE, more: str = "") -> str:
    return f"<system>{start}<forces>{forces}</forces>{motion}{more}</system>"


def write(*parts: str, attributes: str = "") -> Path:
    path = Path("input.xml")
    path.write_text(f"<simulation {attributes}>{''.join(parts)}</simulation>")
    return path


def plan(*parts: str, model: Capabilities = DIRECT, attributes: str = "", **options) -> Plan:
    return make_plan(write(*parts, attributes=attributes), model, **options)


def motion_of(mode: str, inner: str = "") -> str:
    return f"<motion mode='{mode}'>{inner}</motion>"


def dynamics(mode: str, inner: str = LANGEVIN) -> str:
    return motion_of("dynamics", f"<dynamics mode='{mode}'>{inner}</dynamics>")


RELAXATION = motion_of("minimize", "<optimizer mode='damped_bfgs'/>")


# What is read -------------------------------------------------------------------------------------


def test_the_ordinary_input_has_no_warning() -> None:
    found = plan(SOCKET, system())
    assert found.warnings == ()
    assert found.address == "unix:/tmp/ipi_a"
    assert found.sockets == 1
    np.testing.assert_array_equal(found.template.numbers, [29] * 4)
    assert found.template.pbc.all()
    assert not found.template.keep_net_force
    assert "dynamics nvt, steps 0 to 1000" in found.describe()[0]


@pytest.mark.parametrize(("motion", "kind"), [
    (NVT, Kind.RUN),
    (motion_of("multi", NVT + motion_of("t_ramp")), Kind.RUN),
    (RELAXATION, Kind.MINIMISE),
    (motion_of("multi", NVT + RELAXATION), Kind.UNKNOWN),
])  # fmt: skip
def test_what_requests_are_for(motion: str, kind: Kind) -> None:
    assert plan(SOCKET, system(motion)).kind is kind


MTS = dynamics("nvt", f"{LANGEVIN}<nmts> [ 1, 4 ] </nmts>")


@pytest.mark.parametrize(("parts", "step"), [
    ([system()], 0),
    ([system(), "<step> 80 </step>"], 80),
    ([system(dynamics("nve", "<nmts> [ 1 ] </nmts>")), "<step> 80 </step>"], 80),
    ([system(motion_of("multi", NVT + motion_of("t_ramp"))), "<step> 7 </step>"], 7),
    ([system(MTS), "<step> 80 </step>"], None),
    ([system(RELAXATION)], None),
    ([system(motion_of("multi", NVT + RELAXATION))], None),
    ([system(start=START.replace("'1'", "'2'"))], None),
    ([system(forces=FORCE * 2)], None),
    ([system(), system()], None),
])  # fmt: skip
def test_which_step_the_first_request_is_of(parts: list[str], step: int | None) -> None:
    """Known where i-PI asks once a step."""
    assert plan(SOCKET, *parts).step == step


TWO_FS = "<timestep units='femtosecond'> 2 </timestep>"
EVERY_STEP = dynamics("nvt", LANGEVIN + TWO_FS)


@pytest.mark.parametrize(("motion", "femtoseconds"), [
    (EVERY_STEP, 2.0),
    (EVERY_STEP.replace("femtosecond", "picosecond"), 2000.0),
    (EVERY_STEP.replace("units='femtosecond'", ""), 2.0 * 0.0241888432),  # as in a RESTART
    (EVERY_STEP.replace("femtosecond", "fortnight"), 0.0),  # i-PI will say so
    (dynamics("nvt", f"{LANGEVIN}{TWO_FS}<nmts> [ 1, 4 ] </nmts>"), 0.0),
    (RELAXATION, 0.0),
])  # fmt: skip
def test_how_long_a_step_is(motion: str, femtoseconds: float) -> None:
    assert plan(SOCKET, system(motion)).timestep == pytest.approx(1e-3 * femtoseconds, rel=1e-6)


def test_defaults_are_those_of_ipi() -> None:
    found = plan("<ffsocket name='f'/>", system())
    assert found.address == "tcp:127.0.0.1:65535"
    assert found.forcefield.latency == 1e-4
    assert found.forcefield.batch_size == 1
    assert found.forcefield.matching == "auto"


def test_the_prefix_of_the_sockets_may_be_relative(folder: Path) -> None:
    found = plan(SOCKET, system(), attributes="sockets_prefix='run_'")
    assert found.address == f"unix:{folder}/run_a"


def test_an_address_that_no_socket_can_have_is_refused() -> None:
    with pytest.raises(AddressError, match=r"x{100}"):
        plan(SOCKET.replace(" a ", "x" * 120), system())
    with pytest.raises(AddressError, match="70000"):
        plan("<ffsocket name='f'><port> 70000 </port></ffsocket>", system())


def test_a_machine_by_name_stays_one() -> None:
    socket = (
        "<ffsocket name='f' mode='inet'><address> node7 </address><port> 4000 </port></ffsocket>"
    )
    assert plan(socket, system()).address == "tcp:node7:4000"


@pytest.mark.parametrize(
    ("start", "forces", "sockets"),
    [
        (START.replace("'1'", "'16'"), FORCE, 16),
        (START.replace("'1'", "'16'"), "<force forcefield='f' nbeads='4'/>", 4),
        (START.replace("'1'", "'100'"), FORCE, 64),
        ("<beads natoms='2' nbeads='3'><names> [ Cu, Cu ] </names></beads>", FORCE, 3),
    ],
)
def test_a_socket_for_every_bead(start: str, forces: str, sockets: int) -> None:
    assert plan(SOCKET, system(start=start, forces=forces)).sockets == sockets


def test_a_socket_for_every_system_that_uses_the_forcefield() -> None:
    other = system(forces="<force forcefield='g'/>")
    assert plan(SOCKET, system(), system(), other).sockets == 2


def test_one_socket_for_batches() -> None:
    batched = SOCKET.replace("</address>", "</address><batch_size> 4 </batch_size>")
    assert plan(batched, system(start=START.replace("'1'", "'16'"))).sockets == 1


def test_sockets_may_be_given() -> None:
    assert plan(SOCKET, system(), sockets=5).sockets == 5


def test_locked_beads_need_a_socket_each() -> None:
    locked = SOCKET.replace("mode=", "matching='lock' mode=")
    beads = system(start=START.replace("'1'", "'70'"))
    assert plan(locked, beads).sockets == 70
    with pytest.raises(RequestError, match="--sockets 70"):
        plan(locked, beads, sockets=8)


def test_the_only_socket_of_several_forcefields_is_served() -> None:
    assert plan("<fflj name='g'/>", SOCKET, system()).forcefield.name == "f"


def test_several_sockets_want_a_name() -> None:
    two = SOCKET + SOCKET.replace("'f'", "'g'")
    with pytest.raises(DataError, match=r"\(f, g\).*--forcefield"):
        plan(two, system())
    both = system(forces=FORCE + "<force forcefield='g'/>")
    assert plan(two, both, forcefield="g").forcefield.name == "g"
    with pytest.raises(DataError, match=r"no <ffsocket> named 'h'.*f, g"):
        plan(two, both, forcefield="h")


def test_a_forcefield_that_no_system_uses_is_refused() -> None:
    with pytest.raises(DataError, match=r"no <system>.*uses the forcefield 'f'"):
        plan(SOCKET, system(forces="<force forcefield='g'/>"))


@pytest.mark.parametrize("outer", ["ffcommittee", "ffrotations"])
def test_a_socket_within_another_forcefield_is_known_by_its_name(outer: str) -> None:
    nested = f"<{outer} name='all'>{SOCKET}</{outer}>"
    found = plan(nested, system(forces="<force forcefield='all'/>"))
    assert (found.forcefield.name, found.forcefield.outer) == ("f", "all")


def test_the_prefix_is_not_for_sockets_within_another_forcefield() -> None:
    nested = f"<ffcommittee name='all'>{SOCKET}</ffcommittee>"
    users = system(forces="<force forcefield='all'/>")
    assert plan(nested, users, attributes="sockets_prefix='/x/'").address == "unix:/tmp/ipi_a"


def test_what_a_restart_only_has_to_have_is_passed_over() -> None:
    unused = "<ffrotations name='g'><ffsocket name='__DUMMY__'/></ffrotations>"
    assert plan(unused, SOCKET, system()).forcefield.name == "f"


def test_an_input_without_a_socket_names_what_it_has() -> None:
    with pytest.raises(DataError, match=r"no <ffsocket> \(it has fflj, ffdirect\)"):
        plan("<fflj name='f'/><ffdirect name='g'/>", system())


def test_an_input_without_a_system_is_refused() -> None:
    with pytest.raises(DataError, match="no <system>"):
        plan(SOCKET)


def test_a_run_that_is_at_its_end_is_refused() -> None:
    steps = "<step> 40 </step><total_steps> {} </total_steps>"
    with pytest.raises(RequestError, match="already at step 40 of 40: raise its <total_steps>"):
        plan(SOCKET, system(), steps.format(40))
    assert "steps 40 to 41" in plan(SOCKET, system(), steps.format(41)).describe()[0]


def test_names_are_case_sensitive() -> None:
    with pytest.raises(DataError, match="no <ffsocket>"):
        plan(SOCKET.replace("ffsocket", "FFsocket"), system())


def test_system_templates_are_filled_in() -> None:
    inner = system(start=START.replace("'1'", "'BEADS'"), forces="<force forcefield='NAME'/>")
    systems = (
        "<system_template><labels> [ NAME, BEADS ] </labels>"
        "<instance> [ f, 2 ] </instance><instance> [ f, 3 ] </instance>"
        f"<template>{inner}</template></system_template>"
    )
    assert plan(SOCKET, systems).sockets == 5


def test_comments_are_nothing() -> None:
    commented = SOCKET.replace(" a ", " <!-- no --> a <!-- no --> ")
    assert plan(commented, system()).address == "unix:/tmp/ipi_a"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<simulation><a></simulation>", "line 1, column 17"),
        ("", "not well-formed XML"),
        ('{"simulation": {}}', "not well-formed XML"),
    ],
)
def test_what_is_not_xml_is_refused(text: str, words: str) -> None:
    Path("input.xml").write_text(text)
    with pytest.raises(DataError, match=words):
        read_input(Path("input.xml"))


def test_files_that_cannot_be_read_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match=r"none\.xml cannot be read \(No such file"):
        read_input(Path("none.xml"))
    with pytest.raises(DataError, match="cannot be read"):
        read_input(folder)
    Path("binary").write_bytes(b"<?xml version='1.0' encoding='none'?>\xff\x00")
    with pytest.raises(DataError):
        read_input(Path("binary"))


@pytest.mark.parametrize("field", ["latency", "port", "batch_size", "activelist"])
def test_what_is_no_number_is_named(field: str) -> None:
    bad = SOCKET.replace("</address>", f"</address><{field}> [ x ] </{field}>")
    with pytest.raises(DataError, match=f"input.xml: {field} is .*x.*wants a number"):
        plan(bad, system())


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<tau units='femtosecond'> 100 </tau>", 100.0),
        ("<tau units='picosecond'> 0.1 </tau>", 100.0),
        ("<tau> 100 </tau>", 2.4188843),
        ("<tau units='atomic_unit'> 100 </tau>", 2.4188843),
        ("<tau units='ase'> 1 </tau>", 10.180506),
        ("<tau units='fortnight'> 1 </tau>", None),
        ("<tau/>", None),
    ],
)
def test_times_are_converted_as_ipi_does(text: str, expected: float | None) -> None:
    path = Path("time.xml")
    path.write_text(text)
    found = femtoseconds(parse_xml(path), path)
    assert found == (None if expected is None else pytest.approx(expected, rel=1e-6))


# Elements -----------------------------------------------------------------------------------------


def start_from(name: str, mode: str, more: str = "") -> str:
    return f"<initialize nbeads='1'><file mode='{mode}' {more}> {name} </file></initialize>"


def test_elements_of_xyz_with_several_beads() -> None:
    frame = "3\n# CELL(abcABC): 9 9 9 90 90 90 positions{angstrom}\nO 0 0 0\nH 0 0 1\nD 0 1 0\n"
    Path("water.xyz").write_text(frame * 4)
    found = plan(SOCKET, system(start=start_from("water.xyz", "xyz")))
    np.testing.assert_array_equal(found.template.numbers, [8, 1, 1])
    assert found.warnings == ()


def test_positions_in_bohr_are_told() -> None:
    Path("h.xyz").write_text("1\n# CELL(abcABC): 9 9 9 90 90 90\nH 0 0 0\n")
    start = start_from("h.xyz", "xyz")
    assert "in bohr" in plan(SOCKET, system(start=start)).warnings[0]
    start = start_from("h.xyz", "xyz", "units='angstrom'")
    assert plan(SOCKET, system(start=start)).warnings == ()


def test_elements_of_pdb() -> None:
    atom = "ATOM  {:5d} {:>4s}   1     1    {:8.3f}{:8.3f}{:8.3f}  0.00  0.00            0\n"
    cell = "CRYST1    9.000    9.000    9.000  90.00  90.00  90.00 P 1           1\n"
    body = atom.format(1, "Cu", 0, 0, 0) + atom.format(2, "Au", 2, 0, 0) + "END\n"
    Path("a.pdb").write_text(cell + body + cell + body)
    Path("b.pdb").write_text("TITLE     positions{angstrom}\n" + cell + body)
    for name in ("a.pdb", "b.pdb"):
        found = plan(SOCKET, system(start=start_from(name, "pdb")))
        np.testing.assert_array_equal(found.template.numbers, [29, 79])


def test_elements_of_a_restart() -> None:
    Path("RESTART").write_text(
        "<simulation><system><beads natoms='2' nbeads='1'><names shape='(2)'>\n"
        " [ Cu, Au ]\n</names></beads></system></simulation>"
    )
    found = plan(SOCKET, system(start=start_from("RESTART", "chk")))
    np.testing.assert_array_equal(found.template.numbers, [29, 79])


def test_elements_that_are_written_in_the_input() -> None:
    start = (
        "<initialize nbeads='1'><positions mode='manual'> [0,0,0, 0,0,2] </positions>"
        "<labels mode='manual'> [ Cu, Au ] </labels></initialize>"
    )
    np.testing.assert_array_equal(plan(SOCKET, system(start=start)).template.numbers, [29, 79])


def test_later_labels_overwrite_earlier_ones() -> None:
    start = START.replace(
        "</initialize>", "<labels mode='manual' index='2'> Au </labels></initialize>"
    )
    np.testing.assert_array_equal(
        plan(SOCKET, system(start=start)).template.numbers, [29, 29, 79, 29]
    )


def test_isotopes_are_their_element() -> None:
    start = "<beads natoms='4' nbeads='1'><names> [ C13, D, O18, H ] </names></beads>"
    np.testing.assert_array_equal(plan(SOCKET, system(start=start)).template.numbers, [6, 1, 8, 1])


@pytest.mark.parametrize("label", ["OW", "X", "Q", "cu", "1"])
def test_labels_that_are_no_element_are_refused(label: str) -> None:
    start = f"<beads natoms='2' nbeads='1'><names> [ Cu, {label} ] </names></beads>"
    with pytest.raises(DataError, match=f"label '{label}' of atom 2.*--template"):
        plan(SOCKET, system(start=start))


def test_a_template_says_the_elements_instead() -> None:
    start = "<beads natoms='2' nbeads='1'><names> [ OW, HW ] </names></beads>"
    atoms = molecule("OH")
    atoms.cell, atoms.pbc = [9, 9, 9], [True, True, False]
    atoms.write("oh.extxyz")
    found = plan(SOCKET, system(start=start), template=Path("oh.extxyz"))
    np.testing.assert_array_equal(found.template.numbers, [8, 1])
    np.testing.assert_array_equal(found.template.pbc, [True, True, False])


def test_a_template_that_disagrees_with_the_input_is_said() -> None:
    start = "<initialize nbeads='1'><file mode='ase'> cuau.extxyz </file></initialize>"
    atoms = bulk("Cu", cubic=True)
    atoms.symbols[1] = "Au"
    atoms.write("cuau.extxyz")
    same = plan(SOCKET, system(start=start), template=Path("cuau.extxyz"))
    assert same.warnings == ()
    atoms[::-1].write("turned.extxyz")
    found = plan(SOCKET, system(start=start), template=Path("turned.extxyz"))
    assert found.warnings[0].startswith("atom 2 is Cu in turned.extxyz but Au in ")


def test_a_slab_is_periodic_unless_a_template_says_so() -> None:
    slab = bulk("Cu", cubic=True)
    slab.pbc = [True, True, False]
    slab.write("slab.extxyz")
    found = plan(SOCKET, system(start=start_from("slab.extxyz", "ase")))
    assert found.template.pbc.all()
    assert "--template slab.extxyz" in found.warnings[0]


@pytest.mark.parametrize("mode", ["xyz", "pdb", "chk", "ase"])
def test_a_missing_structure_is_named(mode: str) -> None:
    with pytest.raises(DataError, match=r"none\.xyz"):
        plan(SOCKET, system(start=start_from("none.xyz", mode)))


@pytest.mark.parametrize("mode", ["xyz", "pdb", "chk", "ase"])
def test_a_file_of_another_format_is_refused(mode: str) -> None:
    Path("text").write_text("three\nblind\nmice\n")
    with pytest.raises(DataError, match="text"):
        plan(SOCKET, system(start=start_from("text", mode)))


def test_no_labels_at_all_are_refused() -> None:
    with pytest.raises(DataError, match="which elements its atoms are"):
        plan(SOCKET, system(start="<beads natoms='2' nbeads='1'/>"))


def test_an_element_the_model_does_not_know_is_refused() -> None:
    bulk("Fe").write("fe.extxyz")
    with pytest.raises(UnknownElementError, match="Fe"):
        plan(SOCKET, system(start=start_from("fe.extxyz", "ase")))


def test_systems_of_different_elements_are_refused() -> None:
    bulk("Au", cubic=True).write("au.extxyz")
    with pytest.raises(DataError, match="differ in their elements"):
        plan(SOCKET, system(), system(start=start_from("au.extxyz", "ase")))


@pytest.mark.parametrize("tag", ["fixatoms", "fixatoms_dof"])
def test_held_atoms_keep_the_net_force(tag: str) -> None:
    held = NVT.replace("</dynamics>", f"</dynamics><{tag}> [ 0, 1 ] </{tag}>")
    empty = NVT.replace("</dynamics>", f"</dynamics><{tag} shape='(0)'> [ ] </{tag}>")
    assert plan(SOCKET, system(motion=held)).template.keep_net_force
    assert plan(SOCKET, system(motion=motion_of("multi", NVT + held))).template.keep_net_force
    assert not plan(SOCKET, system(motion=empty)).template.keep_net_force


def test_a_part_of_the_atoms_is_asked_about() -> None:
    Path("mix.xyz").write_text("3\npositions{angstrom}\nCu 0 0 0\nAu 0 0 3\nCu 3 0 0\n")
    socket = SOCKET.replace("</address>", "</address><activelist> [ 1, 2 ] </activelist>")
    found = plan(socket, system(start=start_from("mix.xyz", "xyz")))
    np.testing.assert_array_equal(found.template.numbers, [79, 29])
    assert found.template.keep_net_force
    everything = socket.replace("[ 1, 2 ]", "[ -1 ]")
    found = plan(everything, system(start=start_from("mix.xyz", "xyz")))
    assert len(found.template.numbers) == 3
    assert not found.template.keep_net_force
    with pytest.raises(DataError, match="<activelist> of 'f' names atom 3"):
        plan(socket.replace("1, 2", "1, 3"), system(start=start_from("mix.xyz", "xyz")))
