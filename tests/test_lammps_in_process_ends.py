"""How `forcenet-md lammps` ends: on any fault one sentence and a code, and nothing left behind."""

from __future__ import annotations

import os
import pty
import signal
import sys
from pathlib import Path

import pytest
from in_process_runs import ARGON, NVE, lammps, nothing_left, processes_in, run

from forcenet_md.engines.lammps_library import LammpsError, check_arguments

pytestmark = pytest.mark.usefixtures("plugin")

SLOW = pytest.mark.slow

# A model that misbehaves from step 3 on: a driver that puts it in the place of ours.
DRIVER = """
import os, signal, sys, time
import forcenet_md.inference.load
from forcenet_md.cli.main import main
from forcenet_md.errors import EvaluationError
from forcenet_md.inference.ase_evaluator import AseEvaluator

class Misbehaving(AseEvaluator):
    calls = 0
    def evaluate(self, requests):
        self.calls += 1
        if self.calls > 4:
            {deed}
        return super().evaluate(requests)

forcenet_md.inference.load.load_evaluator = lambda spec, **_: Misbehaving(spec)
main()
"""


# Faults ------------------------------------------------------------------------------------------


FAULTS = {
    "element": ("elements Ar", "elements Qq", "'Qq' (atom type 1) is not a chemical element"),
    "overlap": (
        "velocity",
        "create_atoms 1 single 0 0 0\ncreate_atoms 1 single 0 0 0\nvelocity",
        "the forces are not finite: two atoms lie on one point",
    ),
    "command": ("run 5", "run 5\nrum 5", "Unknown command: rum 5"),
    "style": ("fix 1 all nve", "fix 1 all eve", "Unrecognized fix style 'eve'"),
}


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        ("element", 1),
        pytest.param("element", 2, marks=SLOW),
        pytest.param("overlap", 1, marks=SLOW),
        pytest.param("overlap", 2, marks=SLOW),
        pytest.param("command", 1, marks=SLOW),
        pytest.param("command", 2, marks=SLOW),
        pytest.param("style", 1, marks=SLOW),
        pytest.param("style", 2, marks=SLOW),
    ],
)
def test_a_fault_stops_every_rank(name: str, ranks: int, tmp_path: Path) -> None:
    old, new, sentence = FAULTS[name]
    done = run((ARGON + NVE + "run 5\n").replace(old, new), tmp_path, ranks, ["-log", "none"])
    assert done.returncode == 1
    assert sentence in done.error
    assert done.sentence == f"LAMMPS stopped: {done.error}"
    assert "Traceback" not in done.errors


DEEDS = {
    "refuses": ("raise EvaluationError('I am 100 % %s {} tired.')", "I am 100 % %s {} tired."),
    "raises": ("raise ZeroDivisionError('the model')", "failed: ZeroDivisionError('the model')"),
    "ends": ("raise SystemExit", "the model in this process was lost at step 3"),
    "sleeps": ("time.sleep(60)", "the model in this process was lost at step 3 (it did not answer"),
}


@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        pytest.param("refuses", 1, marks=SLOW),
        ("refuses", 2),
        ("raises", 1),
        pytest.param("raises", 2, marks=SLOW),
        pytest.param("ends", 1, marks=SLOW),
        pytest.param("ends", 2, marks=SLOW),
        pytest.param("sleeps", 1, marks=SLOW),
        pytest.param("sleeps", 2, marks=SLOW),
    ],
)
def test_a_model_that_fails_in_mid_run(name: str, ranks: int, tmp_path: Path) -> None:
    deed, sentence = DEEDS[name]
    script = ARGON.replace("elements Ar", "elements Ar timeout 1 retry 30") + NVE + "run 9\n"
    driver = DRIVER.format(deed=deed)
    done = run(script, tmp_path, ranks, ["-log", "none"], driver=driver)
    assert done.returncode == 1
    assert sentence in done.error
    assert done.sentence == f"LAMMPS stopped: {done.error}"


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=SLOW)])
def test_a_fault_before_lammps_starts_is_told_once(ranks: int, tmp_path: Path) -> None:
    done = run(ARGON, tmp_path, ranks, model="no-such-model")
    assert done.returncode == 1
    assert done.sentence.startswith("there is no model file 'no-such-model'")
    assert done.output == ""


def test_lammps_that_does_not_start(tmp_path: Path) -> None:
    done = run(ARGON, tmp_path, 2, ["surplus"])
    assert done.returncode == 1
    assert "Invalid command-line argument: surplus" in done.output
    assert done.sentence == "LAMMPS did not start: it says why above."


@pytest.mark.slow
def test_an_error_of_one_rank_alone_ends_the_other(tmp_path: Path) -> None:
    done = run(ARGON + 'print "x" file /no/such/folder\n', tmp_path, 2, ["-log", "none"])
    assert done.returncode == 1
    assert done.sentence.startswith("LAMMPS stopped: Cannot open print file /no/such/folder")


@pytest.mark.parametrize("ranks", [1, pytest.param(2, marks=SLOW)])
def test_quit_has_its_code(ranks: int, tmp_path: Path) -> None:
    done = run(ARGON + NVE + "run 2\nquit 7\n", tmp_path, ranks, ["-log", "none"])
    assert done.returncode == 7
    assert len(done.thermo()) == 1
    assert done.errors == ""


def test_no_screen_still_has_the_sentence(tmp_path: Path) -> None:
    done = run("rum 5\n", tmp_path, 1, ["-screen", "none", "-log", "none"])
    assert done.returncode == 1
    assert done.output == ""
    assert done.sentence == "LAMMPS stopped: Unknown command: rum 5"


def test_arguments_that_cannot_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LammpsError, match="several partitions"):
        check_arguments(["-partition", "2x1", "-in", "in.x"])
    with pytest.raises(LammpsError, match="several programs"):
        check_arguments(["-mpicolor", "0", "-in", "in.x"])
    with pytest.raises(LammpsError, match=r"in\.x cannot be read \(No such file"):
        check_arguments(["-i", str(tmp_path / "in.x")])
    ours, theirs = pty.openpty()
    with os.fdopen(ours), os.fdopen(theirs) as terminal:
        monkeypatch.setattr(sys, "stdin", terminal)
        for words in ([], ["-log", "none"]):
            with pytest.raises(LammpsError, match="LAMMPS has no input script"):
                check_arguments(words)


# Ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "number"),
    [
        pytest.param(1, signal.SIGINT, marks=SLOW),
        pytest.param(1, signal.SIGTERM, marks=SLOW),
        (2, signal.SIGTERM),
        pytest.param(2, signal.SIGINT, marks=SLOW),
    ],
)
def test_a_signal_ends_it_and_nothing_is_left(ranks: int, number: int, tmp_path: Path) -> None:
    own = tmp_path / "temporary"
    own.mkdir()
    script = ARGON + NVE + "thermo 1\nrun 1000000\n"
    environment = {"TMPDIR": str(own), "XDG_RUNTIME_DIR": str(own)}
    with lammps(script, tmp_path, ranks, ["-log", "none"], environment=environment) as process:
        assert process.stdout
        for line in process.stdout:
            if line.split()[:1] == ["3"]:
                break
        os.killpg(process.pid, number)
        process.communicate(timeout=20)
        assert process.returncode != 0
        assert nothing_left(tmp_path)
    assert not [left for left in own.iterdir() if not left.name.startswith("hydra")]


@pytest.mark.parametrize("rank", [pytest.param("0", marks=SLOW), "1"])
def test_a_killed_rank_ends_the_others(rank: str, tmp_path: Path) -> None:
    script = ARGON + NVE + "thermo 1\nrun 1000000\n"
    with lammps(script, tmp_path, 2, ["-log", "none"]) as process:
        assert process.stdout
        for line in process.stdout:
            if line.split()[:1] == ["3"]:
                break
        [victim] = [pid for pid, its in processes_in(tmp_path).items() if its == rank]
        os.kill(victim, signal.SIGKILL)
        process.communicate(timeout=20)
        assert process.returncode != 0
        assert nothing_left(tmp_path)


def test_who_reads_no_more_ends_it(tmp_path: Path) -> None:
    script = ARGON + NVE + "thermo 1\nrun 1000000\n"
    with lammps(script, tmp_path, 1, ["-log", "none"]) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(20) == -signal.SIGPIPE
        process.stdout = None
