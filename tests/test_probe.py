"""forcenet-md probe: what it prints and writes, what it refuses, and Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from fields import Field
from models import write_model

from forcenet_md.cli.main import build_app
from forcenet_md.cli.probe import _structures
from forcenet_md.data.frames import write_frames
from forcenet_md.errors import DataError, ForceNetError, RequestError, UnknownElementError
from forcenet_md.evaluation.result import Model
from forcenet_md.inference.load import load_evaluator
from forcenet_md.simulation import heating
from forcenet_md.simulation.probed import Structure
from forcenet_md.simulation.probing import Probe, Settings, probe

MADE_UP = Model(name="made-up", spec="made-up", sha256=None, dtype="float64")
QUICK = (
    "--timestep",
    "0.005",
    "--time",
    "0.05",
    "--directions",
    "6",
    "--rotations",
    "2",
    "--copies",
    "2",
)


def crystals(n: int = 3) -> list[Atoms]:
    frames = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.rattle(0.08, seed=k)
        frames.append(atoms)
    return frames


@pytest.fixture
def data(tmp_path: Path) -> Path:
    write_frames(tmp_path / "data.extxyz", crystals())
    return tmp_path / "data.extxyz"


def command(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        build_app()(["probe", *map(str, arguments)])
    assert end.value.code == code


def refused(error: type[ForceNetError], *arguments: object) -> str:
    with pytest.raises(error) as fault:
        build_app()(["probe", *map(str, arguments)])
    return str(fault.value)


def test_a_potential_is_told_as_one(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = data.parent / "p.json"
    command(data, "--model", "ase:emt", *QUICK, "--limit", "2", "--out", out)
    printed = capsys.readouterr().out
    found = Probe.model_validate_json(out.read_text())
    assert found.complete
    assert found.structures == [f"frame {k} of {data}" for k in (0, 1)]
    assert found.net_force == "kept"
    assert found.jacobian is not None
    assert not found.jacobian.seen
    assert len(found.jacobian.frames) == 2
    assert found.rotation is not None
    assert found.rotation.standard_deviation < 1e-12
    assert found.heating is not None
    assert found.heating.seen_by == "model"
    assert found.heating.n_copies == 2
    assert found.heating.timestep == 0.005
    chosen, usual = _structures(data, 4, load_evaluator("ase:emt").capabilities)
    assert usual == 0.002
    assert len(chosen) == 3
    assert "ase:emt: 2 structures, 16 atoms, float64" in printed
    assert re.search(r"λ = ‖J anti‖ / ‖J‖ +\S+ ± ", printed)
    for sentence in found.verdict.words:
        assert sentence in printed
    assert "Its forces are a gradient as far as λ shows" in printed
    assert "It conserves its energy to " in printed


def test_a_random_network_is_told_as_none(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the power of its forces is seen by the energy of a teacher."""
    write_model(data.parent / "m.pt")
    out = data.parent / "p.json"
    arguments = (data, "--model", data.parent / "m.pt", *QUICK, "--out", out)
    command(*arguments, "--teacher", "emt")
    printed = capsys.readouterr().out
    found = json.loads(out.read_text())
    assert found["net_force"] == "removed"
    assert found["jacobian"]["value"] > 0.02
    assert "above all that were published" in printed
    assert found["rotation"]["standard_deviation"] > 1e-6
    assert found["heating"]["seen_by"] == "teacher"
    assert found["heating"]["drift"] is not None
    command(*arguments, "--time", "0")
    assert json.loads(out.read_text())["heating"] is None


def test_what_cannot_be_probed_is_refused(data: Path) -> None:
    assert "--rotations 1 has no spread" in refused(
        RequestError, data, "--model", "ase:emt", "--rotations", "1"
    )
    assert "there is no file or folder" in refused(
        DataError, data.parent / "none.xyz", "--model", "ase:emt"
    )
    write_frames(data.parent / "iron.xyz", [bulk("Fe")])
    sentence = refused(UnknownElementError, data.parent / "iron.xyz", "--model", "alloy")
    assert "does not know Fe" in sentence
    write_model(data.parent / "m.pt")
    sentence = refused(DataError, data, "--model", "ase:emt", "--teacher", data.parent / "m.pt")
    assert "has forces but no energy" in sentence


def test_ctrl_c_ends_with_what_is_known(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the middle of the heating; what was measured before it is there."""
    real = heating._step
    steps = 0

    def step(*arguments: object) -> None:
        nonlocal steps
        steps += 1
        if steps == 108:  # of 100 with the thermostat
            os.kill(os.getpid(), signal.SIGINT)
        real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(heating, "_step", step)
    out = data.parent / "p.json"
    command(data, "--model", "ase:emt", *QUICK, "--time", "100", "--out", out, code=130)
    found = Probe.model_validate_json(out.read_text())
    assert not found.complete
    assert found.jacobian is not None
    assert found.heating is not None
    assert found.heating.time == pytest.approx(0.04, abs=0.005)
    assert "INTERRUPTED" in capsys.readouterr().out


@pytest.mark.parametrize("part", ["forces", "Jacobian", "rotations", "heating"])
def test_it_can_be_stopped_in_every_part(part: str) -> None:
    matrix = np.random.default_rng(0).normal(size=(24, 24))
    field = Field(lambda x: (matrix @ x.ravel()).reshape(-1, 3)).direct()
    frames = [Structure.of(a, "it", field.capabilities) for a in crystals(2)]
    reached = False

    def progress(what: str, done: int, total: int) -> None:
        nonlocal reached
        assert 0 <= done <= total
        reached = reached or (what == part and done > 0)

    settings = Settings(directions=5, rotations=2, time=0.01, copies=2, batch_atoms=8)
    found = probe(field, MADE_UP, frames, [(2.6, None)], settings, None, progress, lambda: reached)
    assert reached
    assert not found.complete
    measured = [found.mean_force, found.jacobian, found.rotation, found.heating]
    order = ["forces", "Jacobian", "rotations", "heating"].index(part)
    assert all(each is not None for each in measured[:order])
    assert all(each is None for each in measured[order + 1 :])


def test_a_field_with_a_known_ratio() -> None:
    matrix = np.random.default_rng(0).normal(size=(24, 24))
    field = Field(lambda x: (matrix @ x.ravel()).reshape(-1, 3)).direct()
    frames = [Structure.of(crystals(1)[0], "it", field.capabilities)]
    settings = Settings(directions=100, rotations=0, time=0.0)
    found = probe(field, MADE_UP, frames, [(2.6, None)], settings)
    assert found.complete
    assert found.jacobian is not None
    true = np.linalg.norm(matrix - matrix.T) / 2 / np.linalg.norm(matrix)
    assert found.jacobian.value == pytest.approx(true, rel=1e-6)
    assert found.rotation is None
    assert found.heating is None
    assert found.verdict.nve is None
