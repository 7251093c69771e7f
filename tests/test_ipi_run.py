"""`forcenet-md ipi` with real i-PI processes: how a run ends, and what ends with it."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
from ase.build import bulk
from models import write_model
from serving import COMMAND, LJ, PATIENCE
from typer.testing import CliRunner

from forcenet_md.cli.ipi import ipi
from forcenet_md.cli.main import build_app
from forcenet_md.engines import ipi_process, ipi_run
from forcenet_md.engines.ipi_plan import make_plan
from forcenet_md.engines.ipi_process import IpiOutput, restart_step
from forcenet_md.engines.ipi_run import clear_address, clear_exit_file, supervise
from forcenet_md.engines.ipi_xml import place_of
from forcenet_md.engines.processes import ProcessError
from forcenet_md.errors import AddressError, RequestError
from forcenet_md.inference.load import read_capabilities
from forcenet_md.server.ipi import IpiError
from forcenet_md.server.limits import Limits
from forcenet_md.server.run import Options

INPUT = """
<simulation verbosity='medium'>
  <output prefix='sim'>
    <properties stride='1' filename='out'> [ step, potential, temperature{{kelvin}} ] </properties>
  </output>
  <total_steps> {steps} </total_steps>
  <prng> <seed> 1 </seed> </prng>
  {more}
  <ffsocket name='f' mode='unix'> <address> {name} </address> </ffsocket>
  <system>
    <initialize nbeads='{beads}'>
      <file mode='ase'> cu.extxyz </file>
      <velocities mode='thermal' units='kelvin'> 300 </velocities>
    </initialize>
    <forces> <force forcefield='f'/> </forces>
    <motion mode='dynamics'>
      <dynamics mode='nvt'>
        <timestep units='femtosecond'> {timestep} </timestep>
        <thermostat mode='pile_l'> <tau units='femtosecond'> 100 </tau> </thermostat>
      </dynamics>
    </motion>
    <ensemble> <temperature units='kelvin'> 300 </temperature> </ensemble>
  </system>
</simulation>
"""
FOREVER = 10_000_000


@pytest.fixture
def name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of i-PI's socket; the current folder has the structure."""
    monkeypatch.chdir(tmp_path)
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05, seed=0)
    atoms.write("cu.extxyz")
    name = f"forcenet_md_{uuid4().hex}"
    yield name
    Path(f"/tmp/ipi_{name}").unlink(missing_ok=True)


def write(name: str, **settings: object) -> Path:
    path = Path("input.xml")
    values = {"steps": 5, "beads": 1, "timestep": 1, "more": ""} | settings
    path.write_text(INPUT.format(name=name, **values))
    return path


def run(path: Path, model: str = LJ) -> int:
    """`forcenet-md ipi` in this process."""
    options = Options(
        model=model,
        listen=(),
        device="cpu",
        threads=1,
        dtype="float32",
        limits=Limits(),
        secret_file=None,
        sha256=None,
        trust=False,
        max_edges=10_000,
        log_file=None,
    )
    return supervise(make_plan(path, read_capabilities(model)), options)


def dead_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()


# Ends in good order ------------------------------------------------------------------------------


def test_a_run_to_its_end(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path("EXIT").touch()
    dead_socket(f"/tmp/ipi_{name}")
    assert run(write(name, beads=4)) == 0
    said = capfd.readouterr().out
    assert "removed the empty file EXIT" in said
    assert f"removed /tmp/ipi_{name}" in said
    assert "i-PI socket 4 connected" in said
    assert "@interfacesocket.open: Created unix socket" in said  # i-PI's own words
    assert said.rstrip().endswith("forcenet-md: i-PI has finished: step 5 of 5.")
    table = np.loadtxt("sim.out")
    assert len(table) == 6
    assert not Path("EXIT").exists()
    [line] = re.findall(r"heat: .*", said)
    found = re.fullmatch(
        r"heat: mean of the last (\d) of 6 lines of sim.out: temperatures in K all (\S+) ± \?", line
    )
    assert found, line
    assert float(found[2]) == pytest.approx(table[-int(found[1]) :, 2].mean(), rel=0.005)


def test_the_end_of_its_time_is_told(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    limit = "<total_time> 1 </total_time>"
    assert run(write(name, steps=FOREVER, more=limit)) == 0
    said = capfd.readouterr().out
    assert "i-PI ended before its last step (" in said
    step = restart_step(Path(), 0.0)
    assert step is not None
    assert step > 0
    assert f"Its RESTART is of step {step} of {FOREVER}" in said


@pytest.mark.slow
def test_a_relaxation_that_ran_out_of_steps_is_told(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(name, steps=2)
    dynamics = path.read_text()
    first, last = dynamics.index("<motion"), dynamics.index("</motion>")
    relaxation = "<motion mode='minimize'> <optimizer mode='damped_bfgs'/> "
    path.write_text(dynamics[:first] + relaxation + dynamics[last:])
    assert run(path) == 0
    assert "has made its 2 steps and the relaxation has not converged" in capfd.readouterr().out


@pytest.mark.slow
def test_a_restart_goes_on(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    run(write(name, steps=FOREVER, more="<total_time> 1 </total_time>"))
    step = restart_step(Path(), 0.0)
    assert step is not None
    text = Path("RESTART").read_text().replace(f"{FOREVER}<", f"{step + 3}<")
    again = Path("again.xml")
    again.write_text(text.replace("<total_time>", "<!--").replace("</total_time>", "-->"))
    assert run(again) == 0
    said = capfd.readouterr().out
    assert f"i-PI has finished: step {step + 3} of {step + 3}." in said
    assert " of 3 lines of sim.out: temperatures in K all " in said
    assert np.loadtxt("sim.out")[-1, 0] == step + 3


# Faults ------------------------------------------------------------------------------------------


def test_a_model_that_fails_ends_ipi(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(IpiError, match="finite"):
        run(write(name, steps=FOREVER, timestep=1e300))
    said = capfd.readouterr().out
    assert "i-PI was stopped. Its RESTART is of step 0" in said
    assert not Path("EXIT").exists()
    assert not Path(f"/tmp/ipi_{name}").exists()


def test_what_ipi_does_not_understand_is_quoted(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """One sentence with the line, and nothing of i-PI's traceback before it."""
    with pytest.raises(ProcessError) as raised:
        run(write(name, more="<nonsense/>"))
    sentence = str(raised.value)
    assert sentence.startswith("i-PI refuses input.xml, line 8: Tag name 'nonsense' is not")
    assert sentence.endswith("; mend it there.")
    said = capfd.readouterr().out
    assert "starting i-PI" in said
    for words in ("Traceback", "File", "NameError", "Error parsing"):
        assert words not in said


BROKEN = """<simulation>
  <system
     a='1'
     b='2'>
  </system>
  <motion/> <motion/>
  <motion/>
"""


@pytest.mark.parametrize(
    ("fault", "place"),
    [
        ("Tag name 'system' is not a recognized property of 'simulation' objects", ", line 2"),
        ("Attribute name 'b' is not a recognized property of 'system' objects", ", line 4"),
        ("Field name 'x' is mandatory and was not found in the input for the property motion",
         ", lines 6, 7"),
        ("Tag name 'syste' is not a recognized property of 'simulation' objects", ""),
        ("options for a are b, not c", ""),
    ],
)  # fmt: skip
def test_the_place_of_a_fault_in_the_input(tmp_path: Path, fault: str, place: str) -> None:
    (tmp_path / "input.xml").write_text(BROKEN)
    assert place_of(fault, tmp_path / "input.xml") == place


@pytest.mark.slow
def test_an_input_that_is_no_xml_is_one_sentence(name: str) -> None:
    path = write(name)
    path.write_text(path.read_text().replace("</ensemble>", ""))
    command = [*COMMAND, "ipi", "input.xml", "--model", LJ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert done.stdout == ""
    [sentence] = done.stderr.splitlines()
    assert re.search(
        r"input\.xml is not well-formed XML \(mismatched tag: line 23, column \d+\): mend it",
        sentence,
    )


@pytest.mark.slow
def test_a_fault_after_its_start_is_quoted(name: str) -> None:
    twice = "</output><output><properties filename='x'> [ no ] </properties></output>"
    path = write(name)
    path.write_text(path.read_text().replace("potential,", "potentail,"))
    with pytest.raises(ProcessError, match="potentail is not a recognized property"):
        run(path)
    assert not Path(f"/tmp/ipi_{name}").exists()
    path.write_text(path.read_text().replace("</output>", twice))
    with pytest.raises(ProcessError, match="i-PI failed"):
        run(path)


FAKE = """
import socket, sys, time
sock = socket.socket(socket.AF_UNIX)
sock.bind("/tmp/ipi_{name}")
sock.listen()
{act}
time.sleep(600)
"""


def fake_ipi(name: str, act: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another i-PI, which listens, acts and never ends by itself."""
    path = Path("fake_ipi.py").absolute()
    path.write_text(FAKE.format(name=name, act=act))
    monkeypatch.setattr(ipi_process, "tool", lambda _: path)


def test_an_ipi_that_lives_on_after_a_fault_is_ended(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipi_process, "FAULT_PATIENCE", 0.1)
    act = "print('Traceback (most recent call last):\\n  File\\nKeyError: 7', flush=True)"
    fake_ipi(name, act, monkeypatch)
    with pytest.raises(ProcessError, match="i-PI failed: KeyError: 7"):
        run(write(name))
    assert not Path(f"/tmp/ipi_{name}").exists()


def test_an_ipi_that_lives_on_without_us_is_ended(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ipi_run, "GOODBYE", 0.1)
    fake_ipi(name, "sock.accept()[0].sendall(b'EXIT        ')", monkeypatch)
    with pytest.raises(ProcessError, match="did not end: raise or leave out its <timeout>"):
        run(write(name))
    assert not Path(f"/tmp/ipi_{name}").exists()


@pytest.mark.slow
def test_a_model_without_energy_in_all_orientations(
    name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_model(Path("m.pt"))
    path = write(name, steps=100)
    text = path.read_text().replace("<ffsocket", "<ffrotations name='r'><ffsocket")
    text = text.replace("</ffsocket>", "</ffsocket><random> True </random></ffrotations>")
    path.write_text(text.replace("forcefield='f'", "forcefield='r'"))
    assert run(path, model="m.pt") == 0
    assert "i-PI has finished: step 100 of 100." in capfd.readouterr().out


class Supervisor:
    """`forcenet-md ipi` in a process of its own, some steps into its run."""

    def __init__(self, path: Path) -> None:
        self.log = Path("said")
        with self.log.open("wb") as file:
            self.process = subprocess.Popen(
                [*COMMAND, "ipi", str(path), "--model", LJ],
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
            )
        wait_until(lambda: len(Path("sim.out").read_text()) > 1000, "sim.out")
        self.children = descendants(self.process.pid)
        assert len(self.children) == 2  # the leash and i-PI

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        wait_until(lambda: not any(map(alive, self.children)))


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def descendants(pid: int) -> list[int]:
    """The children of a process, theirs after them."""
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return children + [each for child in children for each in descendants(child)]


def wait_until(is_so: Callable[[], bool], *needs: str) -> None:
    start = time.monotonic()
    while not (all(Path(need).exists() for need in needs) and is_so()):
        assert time.monotonic() - start < PATIENCE
        time.sleep(0.05)


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_a_signal_ends_both(name: str, number: int) -> None:
    with Supervisor(write(name, steps=FOREVER)) as supervisor:
        supervisor.process.send_signal(number)
        assert supervisor.process.wait(PATIENCE) == 128 + number
        assert not any(map(alive, supervisor.children))
    said = supervisor.log.read_text()
    assert f"i-PI was stopped. Its RESTART is of step {restart_step(Path(), 0.0)} of" in said
    assert not Path(f"/tmp/ipi_{name}").exists()


@pytest.mark.slow
def test_a_killed_supervisor_leaves_no_ipi(name: str) -> None:
    with Supervisor(write(name, steps=FOREVER)) as supervisor:
        supervisor.process.kill()
        supervisor.process.wait()
        wait_until(lambda: not any(map(alive, supervisor.children)))
    assert (restart_step(Path(), 0.0) or 0) > 0  # it ended in good order
    assert not Path(f"/tmp/ipi_{name}").exists()


@pytest.mark.slow
def test_a_killed_ipi_ends_the_run(name: str) -> None:
    with Supervisor(write(name, steps=FOREVER)) as supervisor:
        os.kill(supervisor.children[-1], signal.SIGKILL)
        assert supervisor.process.wait(PATIENCE) == 1
    said = supervisor.log.read_text()
    assert said.rstrip().endswith("forcenet-md: error: i-PI failed: it was killed by SIGKILL.")
    assert not Path(f"/tmp/ipi_{name}").exists()


@pytest.mark.slow
def test_nothing_that_is_killed_leaves_ipi(name: str) -> None:
    with Supervisor(write(name, steps=FOREVER)) as supervisor:
        os.kill(supervisor.children[0], signal.SIGKILL)  # the leash
        assert supervisor.process.wait(PATIENCE) == 1
        wait_until(lambda: not any(map(alive, supervisor.children)))
    assert "i-PI failed: it was killed by SIGKILL." in supervisor.log.read_text()


# Before it starts --------------------------------------------------------------------------------


def test_another_ipi_of_that_name_is_left_alone(name: str) -> None:
    path = f"/tmp/ipi_{name}"
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        sock.listen()
        with pytest.raises(AddressError, match="another i-PI runs at"):
            run(write(name))
        sock.setblocking(False)
        with pytest.raises(BlockingIOError):
            sock.accept()  # it was not even connected to
    clear_address(f"unix:{path}")
    assert not os.path.lexists(path)


def test_a_file_in_the_way_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(AddressError, match="is not a socket"):
        clear_address(f"unix:{path}")
    assert path.read_text() == "mine"


def test_a_port_in_use_is_said() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        with pytest.raises(AddressError, match=f"port {port} of 127.0.0.1 is in use"):
            clear_address(f"tcp:127.0.0.1:{port}")
    clear_address(f"tcp:127.0.0.1:{port}")


def test_an_exit_that_is_more_than_a_sign_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "EXIT"
    path.write_text("a poem")
    with pytest.raises(RequestError, match="EXIT"):
        clear_exit_file(path)
    assert path.read_text() == "a poem"


def test_check_only_says_what_would_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    ipi(write(name, beads=4), model="ase:emt", check=True)
    said = capsys.readouterr()
    assert "4 atoms (Cu4), 4 beads" in said.out
    assert f"f at unix:/tmp/ipi_{name}, 4 sockets" in said.out
    assert said.err == ""
    assert sorted(entry.name for entry in Path().iterdir()) == ["cu.extxyz", "input.xml"]


def test_warnings_are_told_before_the_run(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = write(name)
    path.write_text(path.read_text().replace("</address>", "</address><timeout> 1 </timeout>"))
    ipi(path, model="ase:emt", check=True)
    assert capsys.readouterr().err.startswith("warning: <timeout> 1 s: i-PI drops the server")


@pytest.mark.parametrize("command", ["ipi", "serve"])
def test_more_sockets_than_i_pi_can_have_are_refused(command: str) -> None:
    """Its select() has room for 1024 descriptors; one more ends it in mid-run."""
    arguments = ["input.xml"] if command == "ipi" else ["--ipi", "unix:x", "--template", "x.xyz"]
    found = CliRunner().invoke(
        build_app(), [command, *arguments, "--model", "ase:emt", "--sockets", "1000"]
    )
    assert found.exit_code == 2
    assert "512" in found.output


# i-PI's words ------------------------------------------------------------------------------------

TRIGGER = " @softexit.trigger:  SOFTEXIT CALLED FROM THREAD <_MainThread(MainThread, started 14)> "


def heard(*lines: str) -> IpiOutput:
    output = IpiOutput()
    for line in lines:
        output.read(line)
    return output


def test_the_last_line_of_a_traceback_is_its_fault() -> None:
    output = heard(
        "Traceback (most recent call last):",
        '  File "x.py", line 1, in <module>',
        "    raise ValueError(      ^^^^ @another thread: its words in between",
        "^^^^^^^^^^",
        "ValueError: too many",
        " @softexit.trigger: and so on",
    )
    assert output.fault == "ValueError: too many"


def test_a_traceback_is_shown_where_it_is_not_of_the_input() -> None:
    """Whole: at its end, or when there is no more."""
    start, place = "Traceback (most recent call last):", '  File "x.py", line 1, in load_from_xml'
    output = IpiOutput()
    assert output.read("its words") == ["its words"]
    assert output.read(start) == []
    assert output.read(place.replace("load_from_xml", "step")) == []
    assert output.read("ValueError: no number") == [
        start, place.replace("load_from_xml", "step"), "ValueError: no number",
    ]  # fmt: skip
    assert not output.refuses_input

    output = IpiOutput()
    assert [*output.read(start), *output.read(place)] == []
    assert output.fault == "a traceback"
    assert output.rest() == [start, place]

    output = IpiOutput()
    shown = [*output.read(start), *output.read(place), *output.read("AttributeError: None")]
    assert len(shown) == 3  # a fault of i-PI's own
    assert not output.refuses_input


def test_why_it_stopped_is_the_first_word_of_it() -> None:
    output = heard(
        f"{TRIGGER} @SOFTEXIT: EXIT file detected.",
        f"{TRIGGER} @ FORCES : cannot return so will die off here",
        f"{TRIGGER} @ SIMULATION: Exiting cleanly.",
    )
    assert output.cause == "EXIT file detected"
    assert output.done is None


def test_what_follows_a_good_end_is_no_cause() -> None:
    """With exit_on_disconnect i-PI calls its own farewell to the driver a disconnection."""
    output = heard(f"{TRIGGER} @ SIMULATION: Exiting cleanly.", f"{TRIGGER}Client shutdown.")
    assert output.cause is None
    assert output.done is None


def test_a_converged_minimisation_is_an_end() -> None:
    output = heard(f"{TRIGGER}Geometry optimization converged. Exiting simulation")
    assert output.done == "Geometry optimization converged. Exiting simulation"
    assert output.cause is None
    assert output.problem is None


def test_a_problem_is_one_though_ipi_ends_with_code_zero() -> None:
    output = heard(
        f"{TRIGGER}Please specify either fixatoms or fixatoms_dof",
        " !W! Soft exit has been requested with message: 'Please … I-PI reports a problem."
        " Restartable as is: NO.'. Cleaning up.",
    )
    assert output.problem == "Please specify either fixatoms or fixatoms_dof"


def test_a_restart_of_another_run_is_not_ours(tmp_path: Path) -> None:
    assert restart_step(tmp_path, 0.0) is None
    path = tmp_path / "RESTART"
    path.write_text("<simulation>\n  <total_steps>9</total_steps>\n  <step>7</step>\n")
    assert restart_step(tmp_path, time.time()) == 7
    os.utime(path, (0, 1000))
    assert restart_step(tmp_path, 2000.0) is None
