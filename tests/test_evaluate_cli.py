"""forcenet-md evaluate: what it prints and writes, the page, the card, and Ctrl-C."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from ase import Atoms
from ase.io import read
from browser import assert_whole, needed
from models import write_model
from test_evaluate import crystals

from forcenet_md import ForceNetCalculator
from forcenet_md.artifact import archive
from forcenet_md.artifact.export import read_card
from forcenet_md.artifact.update import update_card
from forcenet_md.cli.main import build_app
from forcenet_md.data.frames import write_frames
from forcenet_md.data.labelled import fixed_atoms
from forcenet_md.errors import DataError, ForceNetError, ModelFileError
from forcenet_md.evaluation import run
from forcenet_md.evaluation.errors import Sample
from forcenet_md.evaluation.spread import judge_spread
from forcenet_md.inference.load import model_path

PICTURES = ("parity.png", "errors.png", "error-over-force.png", "worst.png")


def model_and_data(folder: Path) -> Path:
    write_model(folder / "small.pt", net_force_removed=True)
    write_frames(folder / "data.extxyz", crystals())
    return folder / "data.extxyz"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return model_and_data(tmp_path)


def command(*arguments: object, code: int = 0) -> None:
    """In this process: a start of Python for each would take longer than the rest."""
    with pytest.raises(SystemExit) as end:
        build_app()(["evaluate", *map(str, arguments)])
    assert end.value.code == code


def test_the_table_and_the_json_say_the_same(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (data, "--model", data.parent / "small.pt", "--split-by", "temperature")
    command(*arguments, "--out", data.parent / "a" / "b.json")
    printed = capsys.readouterr().out
    command(*arguments, "--json")
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert found == json.loads((data.parent / "a" / "b.json").read_text())
    assert "all atoms" in output.err  # the table, beside what a program reads
    row = re.search(r"all atoms +(\d+) +(\S+) +(\S+)", printed)
    assert row is not None
    assert row.groups() == (
        str(found["all"]["n_atoms"]),
        f"{found['all']['mae']:.4f}",
        f"{found['all']['rmse']:.4f}",
    )
    assert "Net force: removed in the labels" in printed
    assert "Rotation instability" in printed
    assert list(found["by"]["temperature"]) == ["300", "600"]
    assert found["model"]["sha256"] == read_card(data.parent / "small.pt").sha256
    assert found["format"] == 1


class Page(HTMLParser):
    """What a page refers to, and its words."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on frames whose file has a name that HTML would not show."""
    data = model_and_data(tmp_path_factory.mktemp("reported"))
    shutil.copy(data, odd := data.parent / "a<b>&.extxyz")
    command(odd, "--model", data.parent / "small.pt", "--report", data.parent / "report")
    return data.parent / "report"


def test_the_report_is_one_page_with_pictures_that_show_something(reported: Path) -> None:
    page = Page()
    page.feed((reported / "report.html").read_text())
    assert len(page.links) == len(PICTURES)
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "script" not in page.tags
    assert "a<b>&.extxyz" in page.words
    assert "Rotation instability" in page.words
    assert read_card(reported.parent / "small.pt").sha256 in page.words
    for name in PICTURES:
        pixels = matplotlib.image.imread(reported / name)
        assert min(pixels.shape[:2]) > 300
        levels = (255 * pixels[..., :3]).astype(int) @ [65536, 256, 1]
        assert len(np.unique(levels)) > 50, name
    assert json.loads((reported / "evaluation.json").read_text())["data"]["n_frames"] == 5


@pytest.mark.slow
@needed
def test_a_browser_shows_the_report(reported: Path, tmp_path: Path) -> None:
    assert_whole(reported / "report.html", tmp_path, len(PICTURES), "Worst frames")


def test_the_report_of_an_exact_model_and_of_labels_of_zero(tmp_path: Path) -> None:
    """Neither has a place on a logarithmic axis."""
    atoms = Atoms("Cu")
    atoms.calc = ForceNetCalculator("ase:emt")
    assert not atoms.get_forces().any()
    write_frames(tmp_path / "atom.extxyz", [atoms])
    command(tmp_path / "atom.extxyz", "-m", "ase:emt", "--report", tmp_path)
    assert "has no card" in (tmp_path / "report.html").read_text()


def test_figures_go_into_the_card_and_nothing_else_changes(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = data.parent / "small.pt"
    before, members = read_card(model), archive.read(model).members
    atoms = read(data, 0)
    forces = ForceNetCalculator(model, dtype="float64").get_forces(atoms)
    command(data, "-m", model, "--into-card", "--split-by", "temperature", "--json")
    output = capsys.readouterr()
    figures = json.loads(output.out)
    after = read_card(model)
    assert archive.read(model).members == members
    assert after.sha256 == before.sha256
    assert after.sha256 in output.err
    assert after.model_copy(update={"test_errors": {}}) == before
    errors = after.test_errors
    assert errors["force_mae"] == pytest.approx(figures["free"]["mae"], rel=1e-5)
    assert errors["atoms"] == "free"
    assert errors["sources"] == ["data.extxyz"]
    assert set(errors["by_temperature"]) == {"300", "600"}
    assert set(errors["by_element"]) == {"Cu", "Au"}
    assert errors["rotation_instability"]["value"] > 0.0
    same = ForceNetCalculator(model, dtype="float64", sha256=before.sha256).get_forces(atoms)
    np.testing.assert_array_equal(same, forces)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_update_card_keeps_links_modes_and_files_it_cannot_write(data: Path) -> None:
    model = data.parent / "small.pt"
    model.chmod(0o640)
    link = data.parent / "link.pt"
    link.symlink_to(model)
    update_card(link, {"test_errors": {"force_mae": 1.0}})
    assert link.is_symlink()
    assert read_card(model).test_errors == {"force_mae": 1.0}
    assert model.stat().st_mode & 0o777 == 0o640
    assert not list(data.parent.glob("*.part"))

    held = digest(model)
    with pytest.raises(ModelFileError, match="another model"):
        update_card(model, {}, sha256="0" * 64)
    model.chmod(0o440)
    with pytest.raises(ModelFileError, match="write-protected"):
        update_card(model, {})
    model.chmod(0o640)
    (data.parent / "small.pt.part").mkdir()  # what is written first cannot be
    with pytest.raises(ModelFileError, match="cannot be written"):
        update_card(model, {})
    assert digest(model) == held

    damaged = bytearray(model.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    model.write_bytes(damaged)
    held = digest(model)
    with pytest.raises(ModelFileError, match="damaged"):
        update_card(model, {})
    assert digest(model) == held


@pytest.mark.parametrize(
    ("model", "sentence"),
    [("ase:emt", "no card"), ("alloy", "shipped model"), ("locked", "write-protected")],
)
def test_cards_that_stay_are_refused_before_the_work(
    data: Path, model: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if model == "locked":
        (data.parent / "small.pt").chmod(0o444)
        model = str(data.parent / "small.pt")
    held = None if model == "ase:emt" else digest(model_path(model))
    monkeypatch.setattr(run, "predict", lambda *_: pytest.fail("it has begun"))
    with pytest.raises(ForceNetError, match=sentence):
        build_app()(["evaluate", str(data), "-m", model, "--into-card"])
    assert held is None or digest(model_path(model)) == held


def test_an_interrupt_gives_what_there_is_and_leaves_the_card(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = data.parent / "small.pt"
    held, ask = digest(model), run.predict

    def interrupted(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGINT)
        return ask(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(run, "predict", interrupted)
    command(data, "-m", model, "--into-card", "--json", "--batch-atoms", 1, code=130)
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert (found["complete"], found["data"]["n_frames"], found["data"]["n_asked"]) == (False, 1, 5)
    assert "INTERRUPTED: the figures are over the first 1 of 5 frames" in output.err
    assert digest(model) == held


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--split-by", "colour"], "no column 'colour'"),
        (["--report", "data.extxyz"], "cannot be written"),
        (["--out", "."], "no ordinary file"),
        (["nothing.xyz"], "there is no file .*nothing.xyz"),
    ],
)
def test_faults_get_a_sentence(
    data: Path, options: list[str], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(data.parent)
    with pytest.raises(DataError, match=sentence):
        build_app()(["evaluate", "data.extxyz", "-m", "small.pt", *options])


def test_a_frame_without_labels_is_named(data: Path) -> None:
    write_frames(data, [*crystals(1), Atoms("Cu")])
    with pytest.raises(DataError, match=r"frame 1 of .*data.extxyz: it has no forces"):
        build_app()(["evaluate", str(data), "-m", str(data.parent / "small.pt")])


def test_one_turn_is_refused(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command(data, "-m", data.parent / "small.pt", "--rotations", 1, code=2)
    assert "two turns or more" in capsys.readouterr().err


@pytest.mark.slow
def test_a_committee_is_judged_by_its_mean_and_its_spread(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, members = data.parent, [data.parent / f"m{seed}.pt" for seed in range(3)]
    for seed, member in enumerate(members):
        write_model(member, seed=seed, net_force_removed=True)
    first, *others = members
    told = ("-m", first, "--committee", *others, "--dtype", "float64", "--rotations", 0)
    command(data, *told, "--json", "--report", folder / "report")
    output = capsys.readouterr()
    found = json.loads(output.out)
    assert found["model"]["committee"] == [str(member) for member in others]

    calculator = ForceNetCalculator(first, committee=others, dtype="float64")
    spreads, errors = [], []
    for atoms in crystals():
        twin, free = atoms.copy(), ~fixed_atoms(atoms)
        twin.calc, labels = calculator, atoms.calc.results["forces"]
        error = twin.get_forces(apply_constraint=False) - (labels - labels.mean(axis=0))
        errors += np.linalg.norm(error, axis=1)[free].tolist()
        spreads += calculator.results["force_spread"][free].tolist()
    order = np.argsort(spreads)
    ranks = [np.argsort(np.argsort(values)) for values in (spreads, errors)]
    spread = found["spread"]
    assert spread["spearman"] == pytest.approx(np.corrcoef(*ranks)[0, 1])
    assert (spread["exact"], spread["n_sampled"]) == (True, len(errors))
    assert spread["mean"] == pytest.approx(np.mean(spreads))
    for tenth, atoms_of in zip(spread["tenths"], np.array_split(order, 10), strict=True):
        assert tenth["error"] == pytest.approx(np.mean(np.array(errors)[atoms_of]))
        assert tenth["spread"] == pytest.approx(np.mean(np.array(spreads)[atoms_of]))
    assert f"rank correlation of the two: {spread['spearman']:.2f}" in output.err

    page = Page()
    page.feed((folder / "report" / "report.html").read_text())
    assert "tenth of the atoms, by spread" in page.words
    assert "a committee has no card" in page.words
    assert len(page.links) == len(PICTURES) + 1
    assert (folder / "report" / "error-over-spread.png").is_file()
    with pytest.raises(ModelFileError, match="no card"):
        build_app()(["evaluate", str(data), *map(str, told), "--into-card"])


def test_a_spread_that_is_the_same_everywhere_has_no_rank() -> None:
    sample = Sample(9)
    rows = np.zeros((4, 9))
    rows[:, 3] = [0.1, 0.2, 0.3, 0.4]
    sample.add(rows)
    spread = judge_spread(sample)
    assert spread is not None
    assert spread.spearman is None
    assert [tenth.error for tenth in spread.tenths] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    rows[:, 8] = np.nan  # a model without a spread
    alone = Sample(9)
    alone.add(rows)
    assert judge_spread(alone) is None
