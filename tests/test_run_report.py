"""`forcenet-md report`: one page of a recorded run, with its figures and pictures inside."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from browser import assert_whole, needed
from PIL import Image
from recordings import TIMESTEP, Simulation, contents, triclinic

from forcenet_md.cli.main import build_app
from forcenet_md.errors import DataError
from forcenet_md.recording.recorder import Recorder
from forcenet_md.simulation.analysis import Analysis
from forcenet_md.simulation.run_report import POINTS, SEEN, Recording, envelope


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recording") / "run.h5"
    recorder = Recorder(path, 1, "full", lambda line: None)
    simulation = Simulation(triclinic(3))
    for step in range(40):
        seen = {"force_spread": np.full(108, 0.1 + 0.01 * step), "torque_force": 0.02 * step}
        recorder.see(*simulation.answer(step, **seen))
    recorder.close()
    return path


def write(*words: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        build_app()(["report", *map(str, words)])
    assert ended.value.code in ((None, 0) if code == 0 else (code,))


@pytest.fixture(scope="module")
def page(recording: Path) -> Path:
    """Beside the run, as it is not told where else."""
    write(recording)
    return recording.with_suffix(".html")


def test_a_page_has_the_figures_of_the_file(recording: Path, page: Path) -> None:
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "Cu72Au36" in text
    assert re.findall(r"https?://", text) == []  # nothing is fetched
    assert "<script" not in text
    seen = contents(recording).observables
    for name in ("largest_force", "net_force", "torque_force", "force_spread_max"):
        least, mean, most = seen[name].min(), seen[name].mean(), seen[name].max()
        cells = "".join(f"<td>{value:.4g}</td>" for value in (least, mean, most))
        assert f"<td>{SEEN[name]}</td>{cells}" in text
    assert "temperature, Au (K)" in text
    assert "<td>Au-Cu</td>" in text


@needed
def test_a_browser_shows_it(page: Path, tmp_path: Path) -> None:
    assert_whole(page, tmp_path, 4, "temperature, Au (K)")


def test_its_pictures_show_something(page: Path) -> None:
    pictures = re.findall(r'src="data:image/png;base64,([^"]+)"', page.read_text())
    assert len(pictures) >= 4
    for data in pictures:
        image = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("L"), float)
        assert image.std() > 5.0


@pytest.mark.slow
def test_an_interrupt_ends_with_what_is_read(
    recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, count = Analysis.add, []

    def interrupted(self: Analysis, *arguments: object) -> object:
        count.append(1)
        if len(count) == 20:
            os.kill(os.getpid(), signal.SIGINT)
        return add(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Analysis, "add", interrupted)
    write(recording, "-o", tmp_path / "page.html", code=130)
    assert 20 <= len(count) < 40
    assert "Cu72Au36, 20 frames" in (tmp_path / "page.html").read_text()


@pytest.mark.slow
def test_the_beginning_is_left_out_of_the_figures(recording: Path, tmp_path: Path) -> None:
    out = tmp_path / "page.html"
    write(recording, "-o", out, "--from", 20 * TIMESTEP)
    assert "Cu72Au36, 20 frames" in out.read_text()


def of_another_program(path: Path) -> None:
    """H5MD as its specification has it, without what --record adds."""
    with h5py.File(path, "w") as file:
        file.create_group("h5md").attrs["version"] = (1, 1)
        atoms = file.create_group("particles/atoms")
        atoms["species"] = [29, 29]
        atoms["position/value"] = [[[0.0, 0.0, 0.0], [2.5, 0.0, 0.0]]] * 3
        atoms["position/step"] = [0, 1, 2]
        atoms["position/time"] = [0.0, 0.1, 0.2]
        box = atoms.create_group("box")
        box.attrs.update(dimension=3, boundary=["periodic"] * 3)
        box["edges"] = np.full(3, 15.0)


NOT_RECORDED = {
    "there is no file": lambda path: None,
    "is no file": Path.mkdir,
    "is empty": Path.touch,
    "cannot be read as H5MD": lambda path: path.write_text("no HDF5"),
    "was not written by --record": of_another_program,
}


@pytest.mark.parametrize("words", NOT_RECORDED)
def test_what_is_no_recording_is_told(words: str, tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    NOT_RECORDED[words](path)
    with pytest.raises(DataError, match=words) as told:
        build_app()(["report", str(path)])
    assert "run.h5" in str(told.value)
    assert not (tmp_path / "run.html").exists()


@pytest.mark.slow
def test_a_run_of_one_frame_has_a_page(tmp_path: Path) -> None:
    recorder = Recorder(tmp_path / "run.h5", 1, "full", lambda line: None)
    recorder.see(*Simulation(triclinic(3)).answer(7))
    recorder.close()
    write(tmp_path / "run.h5")
    assert "The last frame, step 7." in (tmp_path / "run.html").read_text()


def test_a_thinned_curve_keeps_its_peaks() -> None:
    values = np.random.default_rng(0).normal(size=100_000)
    values[1234], values[77_777], values[5000] = 50.0, -50.0, np.nan
    steps, thinned = envelope(np.arange(100_000.0), values)
    assert len(steps) <= 2 * POINTS
    assert (np.diff(steps) > 0).all()
    assert thinned.max() == 50.0
    assert thinned.min() == -50.0
    assert np.array_equal(values[steps.astype(int)], thinned)


@pytest.mark.slow
def test_a_recording_without_times_takes_a_timestep(tmp_path: Path) -> None:
    """As of ASE, which says none; the page advises what it takes."""
    recorder = Recorder(tmp_path / "run.h5", 1, "full", lambda line: None)
    simulation = Simulation(triclinic(3))
    for step in range(40):
        request, forces = simulation.answer(step)
        silent = replace(request.moment, timestep=0.0, velocities=None)
        recorder.see(replace(request, moment=silent), forces)
    recorder.close()
    out = tmp_path / "page.html"
    write(tmp_path / "run.h5", "-o", out)
    text = out.read_text()
    assert "give --timestep PS" in text
    assert "no temperatures and no spectra" in text
    assert "vx vy vz with the positions" not in text
    write(tmp_path / "run.h5", "-o", out, "--timestep", 0.002, "--from", 0.02)
    assert "30 frames, 0.02 to 0.078 ps" in out.read_text()


def test_what_was_run_again_is_not_counted(tmp_path: Path) -> None:
    """In the curves and extremes of what was seen, as in the rest of the page."""
    path, simulation = tmp_path / "run.h5", Simulation(triclinic())
    for first, last in ((0, 14), (9, 20)):
        recorder = Recorder(path, 2, "full", lambda line: None)
        simulation.run(recorder, first, last)
        recorder.close()
    asked = [answer for request, answer in simulation.asked if request.moment.step % 2 == 0]
    kept = asked[:5] + asked[8:]  # to step 8, and from 10 of the second run on
    found = Recording.read(path)
    assert found.steps.tolist() == list(range(0, 21, 2))
    largest = [np.linalg.norm(answer.forces, axis=1).max() for answer in kept]
    np.testing.assert_allclose(found.seen["largest_force"], largest)


def test_a_net_force_that_training_left_free_is_not_shown(tmp_path: Path) -> None:
    path = tmp_path / "run.h5"
    recorder, simulation = Recorder(path, 1, "full", lambda line: None), Simulation(triclinic())
    recorder.net_force_removed = True
    simulation.run(recorder, 0, 3)
    recorder.close()
    recorder = Recorder(path, 1, "full", lambda line: None)  # as it goes on, in parts that merge
    simulation.run(recorder, 4, 6)
    recorder.close()
    assert "net_force" in contents(path).observables
    found = Recording.read(path)
    assert "largest_force" in found.seen
    assert "net_force" not in found.seen
    with h5py.File(path, "a") as older:
        del older["parameters/forcenet_md"].attrs["net_force_removed"]
    assert "net_force" in Recording.read(path).seen
