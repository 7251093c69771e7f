"""The job scripts of examples/02-slurm: what they leave behind when one of their parts ends."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from lammps_runs import cases
from slurm_job import LAMMPS, SCRIPTS, Job


@pytest.fixture
def job(tmp_path: Path, plugin: Path) -> Iterator[Job]:
    job = Job(tmp_path)
    yield job
    job.close()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_bash_understands(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    if shutil.which("shellcheck"):
        # the environment is not there to be followed; what a trap calls is reached
        subprocess.run(["shellcheck", "--exclude=SC1091,SC2317", script], check=True)


@pytest.mark.slow
def test_a_long_run_stops_in_time_is_queued_again_and_goes_on(job: Job) -> None:
    code, output = job.run("long-run.sh", SECONDS_LEFT="121")
    assert code == 0, output
    assert "Wall time limit reached" in output
    assert (job.folder / "scontrol.txt").read_text() == f"requeue {job.number}\n"
    assert not (job.folder / "alloy-final.data").exists()

    done = int(re.findall(r"Loop time of .* for (\d+) steps", output)[0])
    code, output = job.run("long-run.sh", "-var", "steps", str(done + 5), SLURM_RESTART_COUNT="1")
    assert code == 0, output
    assert "Reading restart file" in output
    assert re.findall(r"Current step +: (\d+)", output) == [str(done)]
    assert "all steps are done" in output
    assert (job.folder / "scontrol.txt").read_text() == f"requeue {job.number}\n"
    assert (job.folder / "alloy-final.data").exists()


@pytest.mark.parametrize("script", cases(LAMMPS, set(LAMMPS) - {"one-node.sh"}))
def test_lammps_runs_to_its_end(script: str, job: Job) -> None:
    code, output = job.run(script, "-var", "steps", "5")
    assert code == 0, output
    assert (job.folder / "alloy-final.data").exists()
    assert "it said goodbye" in job.log


@pytest.mark.slow
@pytest.mark.parametrize("script", LAMMPS)
class TestLammps:
    def test_ends_when_the_server_dies(self, script: str, job: Job) -> None:
        job.start(script, "-var", "options", "retry 1000")  # LAMMPS alone would wait
        job.until_lammps_moves()
        os.kill(job.server(), signal.SIGKILL)
        code, output = job.ended()
        assert code == 1
        assert "the force server ended before LAMMPS did" in output

    def test_ends_when_the_server_cannot_start(self, script: str, job: Job) -> None:
        code, output = job.run(script, MODEL="nothing.pt")
        assert code == 1
        assert "forcenet-md: error: the model file nothing.pt does not exist" in output
        assert not job.step.exists()

    def test_ends_when_lammps_fails(self, script: str, job: Job) -> None:
        code, output = job.run(script, "-var", "temperature", "warm")
        assert code == 1
        assert "ERROR: Variable temperature" in output
        assert not (job.folder / "scontrol.txt").exists()

    def test_ends_on_a_signal(self, script: str, job: Job) -> None:
        job.start(script)
        job.until_lammps_moves()
        assert job.process
        job.process.terminate()
        code, _ = job.ended()
        assert code == 143


@pytest.mark.slow
def test_the_secret_is_for_its_owner_alone(job: Job) -> None:
    job.start("two-nodes.sh", "-var", "steps", "20")
    job.until_lammps_moves()
    (secret,) = job.folder.glob(".secret*")
    assert secret.stat().st_mode & 0o777 == 0o600
    assert len(secret.read_text().strip()) == 44
    code, output = job.ended()
    assert code == 0, output
    assert "authenticated by the secret" in job.log


@pytest.mark.slow
def test_a_long_run_ends_at_its_number_of_jobs(job: Job) -> None:
    code, output = job.run(
        "long-run.sh", SECONDS_LEFT="122", SLURM_RESTART_COUNT="1", MOST_JOBS="2"
    )
    assert code == 1
    assert "not done after 2 jobs" in output
    assert not (job.folder / "scontrol.txt").exists()


@pytest.mark.slow
def test_a_job_without_time_is_not_started(job: Job) -> None:
    code, output = job.run("long-run.sh", SECONDS_LEFT="100")
    assert code == 1
    assert "this job ends within 120 s" in output


@pytest.mark.slow
def test_separate_runs_in_place_of_ranks_are_refused(job: Job) -> None:
    code, output = job.run("one-node.sh", SLURM_NTASKS="2")  # the stand-in starts one rank
    assert code == 1
    assert "ranks: 1 where 2 were asked for" in output
