"""`forcenet-md lammps`: LAMMPS with the model in its own process gives what a server gives."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from in_process_runs import ARGON, FORCENET, LJ, NOWHERE, NVE, run, succeed
from lammps_runs import BIN, EXTERNAL, NO_PAIR, crystal, quick_run
from models import write_model
from serving import in_thread

from forcenet_md.inference.ase_evaluator import AseEvaluator
from forcenet_md.inference.load import load_evaluator
from forcenet_md.simulation.demo_inputs import inputs_folder

pytestmark = pytest.mark.usefixtures("plugin")

SLOW = pytest.mark.slow


def without_times(log: str) -> list[str]:
    """The lines of a log that do not tell how long something took, nor whose forces they are.

    Nor how often the plugin was found: a process that has imported `lammps`, as this one may have,
    names its folder to the processes it starts.
    """
    timed = (
        r"CPU|Loop time|Performance|wall time|forces come from|Loaded \d+ plugins"
        r"|^(Pair|Neigh|Comm|Output|Modify|Other) "
    )
    return [line for line in log.splitlines() if not re.search(timed, line)]


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=SLOW), 2, pytest.param(3, marks=SLOW)])
def test_every_digit_is_that_of_a_server(ranks: int, tmp_path: Path) -> None:
    """Dynamics, a barostat and a minimisation: log and trajectory, but for their times."""
    script = (
        crystal(2)
        + NO_PAIR
        + EXTERNAL
        + "forcenet ext ${address} elements Ar\n"
        + "thermo 5\nthermo_style custom step temp pe etotal press vol\n"
        + "thermo_modify format float %.17g norm no\n"
        + "dump 1 all custom 5 out.dump id x y z vx vy vz fx fy fz\n"
        + "dump_modify 1 sort id format float %.17g\n"
        + "fix 1 all nvt temp 40 40 0.1\nrun 15\nunfix 1\n"
        + "fix 1 all npt temp 40 40 0.1 iso 0 0 0.5\nrun 15\nunfix 1\nminimize 0 1e-6 10 20\n"
    )
    logs, dumps = [], []
    address = f"unix:{tmp_path}/s"
    script = f"variable address string {address}\n" + script
    with in_thread(tmp_path / "s", AseEvaluator(LJ)):
        served = quick_run(script + "log none\n", tmp_path, ranks)
    assert served.returncode == 0, served.output
    logs.append(served.output)
    dumps.append((tmp_path / "out.dump").read_text())
    logs.append(succeed(script + "log none\n", tmp_path, ranks, ["-log", "none"]).output)
    dumps.append((tmp_path / "out.dump").read_text())
    assert f"forcenet ext: forces come from the model {LJ} in this process; the address" in logs[1]
    assert without_times(logs[1]) == without_times(logs[0])
    assert dumps[1] == dumps[0]
    assert dumps[0].count("TIMESTEP") > 8


@pytest.mark.parametrize(
    ("name", "ranks", "settings"),
    [
        pytest.param("alloy-nvt", 1, {"steps": 20}, marks=SLOW),
        pytest.param("alloy-nvt", 2, {"steps": 20}, marks=SLOW),
        pytest.param("slab-relax", 1, {"steps": 10}, marks=SLOW),
        pytest.param("melt-quench", 2, {"melt_steps": 30, "quench_steps": 60}, marks=SLOW),
    ],
)
def test_a_script_of_ours_runs_unchanged(
    name: str, ranks: int, settings: dict[str, int], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(inputs_folder() / "lammps", tmp_path / "lammps"))
    model = tmp_path / "m.pt"
    write_model(model)
    script = (folder / f"{name}.in").read_text()
    values = [word for key, value in settings.items() for word in ("-var", key, str(value))]
    inside = succeed(script, folder, ranks, values, str(model))
    dump = (folder / f"{name}.dump").read_text()
    assert (folder / "log.lammps").exists()

    evaluator = load_evaluator(str(model))
    evaluator.warm_up()
    lines = "".join(f"variable {key} index {value}\n" for key, value in settings.items())
    with in_thread(tmp_path / "s", evaluator) as (_, address):
        served = quick_run(f"variable address index {address}\n{lines}{script}", folder, ranks)
    assert served.returncode == 0, served.output
    assert (folder / f"{name}.dump").read_text() == dump
    assert inside.output.count("WARNING") == served.output.count("WARNING") > 0


def test_what_scripts_do(tmp_path: Path) -> None:
    """Loops over `clear`, an included file, two fixes, a restart, the words for a server."""
    (tmp_path / "more.in").write_text("run 2\n")
    words = f"forcenet ext {NOWHERE} elements Ar retry 5 timeout 60 secret no-such-file\n"
    script = (
        "variable i loop 2\n"
        + ARGON.replace(FORCENET, words)
        + "fix two all external pf/callback 1 1\nforcenet two tcp:nowhere:1 elements Ar\n"
        + NVE
        + "include more.in\nrun 2 pre no\nforcenet two off\nunfix two\nrun 3\n"
        + "write_restart r.restart\nclear\nnext i\njump SELF\n"
        + f"read_restart r.restart\n{NO_PAIR}{EXTERNAL}{FORCENET}{NVE}run 1\n"
        + 'print "all done"\n'
    )
    environment = {"FORCENET_MD_SECRET": "of another server"}
    done = succeed(script, tmp_path, 2, ["-log", "none"], environment=environment)
    assert "all done" in done.output
    assert len(done.thermo()) == 7
    assert done.thermo()[-1][-1, 0] == 8
    assert done.output.count("; the address unix:/nowhere/s is not used") == 3
    assert done.output.count("; the address tcp:nowhere:1 is not used") == 2


@pytest.mark.parametrize("ranks", [pytest.param(1, marks=SLOW), 2])
def test_a_script_from_standard_input(ranks: int, tmp_path: Path) -> None:
    done = succeed(None, tmp_path, ranks, ["-log", "my.log"], typed=ARGON + NVE + "run 2\n")
    assert done.thermo()[0][-1, 0] == 2
    assert "run 2" in (tmp_path / "my.log").read_text()
    assert not (tmp_path / "log.lammps").exists()


def test_a_program_that_the_script_starts_has_its_own_address(tmp_path: Path) -> None:
    child = ARGON + NVE + "run 1\n"
    (tmp_path / "child.in").write_text(child)
    script = child + f"shell {BIN}/lmp -in child.in -log none -screen child.out\nrun 1\n"
    succeed(script, tmp_path, 1, ["-log", "none"])
    assert (
        f"the force server at {NOWHERE} cannot be reached" in (tmp_path / "child.out").read_text()
    )


@SLOW
def test_a_script_without_the_model_is_told(tmp_path: Path) -> None:
    done = run(crystal(2) + NO_PAIR + NVE + "run 1\n", tmp_path)
    assert done.returncode == 0
    assert "never gave the command forcenet" in done.errors


def test_the_log_file_has_the_models_side(tmp_path: Path) -> None:
    options = ["--log-file", "model.log", "-log", "none"]
    succeed(ARGON + NVE + "run 2\n", tmp_path, 1, options)
    text = (tmp_path / "model.log").read_text()
    assert "client 1 left after 3 steps: it said goodbye" in text


@SLOW
def test_the_networks_threads_are_not_lammpss(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(inputs_folder() / "lammps", tmp_path / "lammps"))
    write_model(tmp_path / "m.pt")
    script = (folder / "alloy-nvt.in").read_text()
    options = ["--threads", "2", "-var", "steps", "2"]
    done = succeed(script, folder, 1, options, str(tmp_path / "m.pt"))
    assert "using 1 OpenMP thread(s) per MPI task" in done.output


@pytest.mark.slow
def test_memory_does_not_grow(tmp_path: Path) -> None:
    script = ARGON + NVE + "thermo 1000\nrun 100\ninfo memory\nrun 20000\ninfo memory\n"
    done = succeed(script, tmp_path, 1, ["-log", "none"])
    peaks = re.findall(r"Maximum resident set size: +([\d.]+) Mbyte", done.output)
    before, after = (float(peak) for peak in peaks)
    assert after - before < 4.0
