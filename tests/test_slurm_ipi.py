"""The job scripts with i-PI: they stop in time, are queued again, and leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_job import IPI, Job

pytestmark = pytest.mark.slow


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Job]:
    """A job with a port that no other test uses."""
    job = Job(tmp_path)
    job.variables["PORT"] = str(free_port())
    yield job
    job.close()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def steps_of(job: Job) -> list[int]:
    """The steps in i-PI's table of properties."""
    file = job.folder / "alloy-ipi.out"
    return [int(float(x)) for x in re.findall(r"^ +(\S+)", file.read_text(), re.M)]


def ask_for(job: Job, steps: int, file: str = "alloy.xml") -> None:
    path = job.folder / file
    text, changed = re.subn(r"(<total_steps>)[ \d]+", rf"\g<1> {steps} ", path.read_text())
    assert changed == 1
    path.write_text(text)


@pytest.mark.parametrize("script", IPI)
class TestIpi:
    def test_stops_in_time_is_queued_again_and_goes_on(self, script: str, job: Job) -> None:
        job.start(script)
        job.until(lambda: (job.folder / "alloy-ipi.out").exists() and 20 in steps_of(job))
        assert job.process
        job.process.send_signal(signal.SIGUSR1)
        code, output = job.ended()
        assert code == 0, output
        assert "queued again" in output
        assert (job.folder / "scontrol.txt").read_text() == f"requeue {job.number}\n"

        last = steps_of(job)[-1]
        assert last < 1000
        ask_for(job, last + 20, "RESTART")
        code, output = job.run(script, SLURM_RESTART_COUNT="1")
        assert code == 0, output
        assert "queued again" not in output
        assert (job.folder / "scontrol.txt").read_text() == f"requeue {job.number}\n"
        assert steps_of(job) == list(range(0, last + 21, 10))

    def test_ends_when_the_model_fails(self, script: str, job: Job) -> None:
        structure = job.folder.parents[1] / "inputs" / "ipi" / "alloy.xyz"
        text = structure.read_text()
        assert re.search(r"^Ag ", text, re.M)
        structure.write_text(re.sub(r"^Ag ", "Fe ", text, flags=re.M))
        code, output = job.run(script)
        assert code == 1
        assert "Fe" in output
        assert not (job.folder / "scontrol.txt").exists()

    def test_ends_on_a_signal(self, script: str, job: Job) -> None:
        job.start(script)
        job.until(lambda: (job.folder / "alloy-ipi.out").exists() and 20 in steps_of(job))
        assert job.process
        job.process.terminate()
        code, _ = job.ended()
        assert code == 143


def test_ipi_on_another_node_ends_when_the_server_dies(job: Job) -> None:
    job.start("ipi-two-nodes.sh")
    job.until(lambda: (job.folder / "alloy-ipi.out").exists() and 20 in steps_of(job))
    os.kill(job.server(), signal.SIGKILL)
    code, _ = job.ended()
    assert code == 137
