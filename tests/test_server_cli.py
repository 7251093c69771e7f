"""The command line: what is refused, in which words, with which exit code."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from serving import COMMAND, LJ, ServeProcess

from forcenet_md import __version__
from forcenet_md.cli.main import main
from forcenet_md.engines import lammps_in_process
from forcenet_md.server import run as serving_run
from forcenet_md.server.run import Options


@pytest.fixture
def command(monkeypatch, capfd) -> Callable[..., tuple[int, str, str]]:
    """Runs `forcenet-md …` in this process: exit code, stdout, stderr."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["forcenet-md", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        code = end.value.code or 0
        assert isinstance(code, int)
        return (code, *capfd.readouterr())

    return run


@pytest.fixture
def refused(command) -> Callable[..., str]:
    """The one sentence on stderr of a command that ends with code 1."""

    def run(*arguments: str) -> str:
        code, out, err = command(*arguments)
        assert code == 1
        assert err.startswith("forcenet-md: error: ")
        assert err.count("\n") == 1
        assert "ready" not in out
        return err

    return run


def test_version_and_help(command):
    assert command("--version") == (0, f"forcenet-md {__version__}\n", "")
    code, out, _ = command("--help")
    assert code == 0
    assert "serve" in out
    code, out, _ = command("serve", "--help")
    assert code == 0
    assert "--listen" in out


@pytest.mark.parametrize(
    "words",
    [
        "--committee b.pt c.pt --threads 1",
        "--threads 1 --committee b.pt c.pt",
        "--committee b.pt --threads 1 --committee c.pt",
        "--committee=b.pt --committee=c.pt",
    ],
)
def test_the_members_of_a_committee_in_every_form(
    words: str, command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Options] = []
    monkeypatch.setattr(serving_run, "run", lambda options, stop: seen.append(options))
    assert command("serve", "--model", "a.pt", *words.split(), "--listen", "unix:/x")[0] == 0
    assert [options.committee for options in seen] == [("b.pt", "c.pt")]
    assert seen[0].model == "a.pt"
    assert seen[0].listen == ("unix:/x",)


def test_the_members_of_a_committee_end_where_the_options_of_lammps_begin(
    command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []
    monkeypatch.setattr(lammps_in_process, "run", lambda words, *rest: seen.append(words))
    theirs = ["-in", "in.x", "-var", "n", "2"]
    members = ["--committee", "b.pt", "c.pt"]
    assert command("lammps", "--model", "a.pt", *members, *theirs, "--dtype", "float64")[0] == 0
    assert seen == [theirs]


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from forcenet_md.cli.main import build_app; build_app();"
        "print([m for m in ('torch', 'ase', 'numpy', 'scipy', 'lammps') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_a_server_waits_for_nothing_it_does_not_need():
    """Half a second of every start."""
    code = (
        "import sys; import forcenet_md.inference.evaluator, forcenet_md.server.run;"
        "print([m for m in ('ase.io', 'scipy.special', 'matplotlib', 'h5py') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_wrong_usage_is_told(command):
    assert command("serve")[0] == 2
    assert command("serve", "--model", LJ, "--dtype", "float16")[0] == 2
    assert command("serve", "--model", LJ, "--max-atoms", "0")[0] == 2


def test_ctrl_c_is_quiet(command, monkeypatch):
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("forcenet_md.cli.main.build_app", interrupted)
    assert command("serve") == (130, "", "")


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_beyond_this_machine_without_a_secret_is_refused(host, refused, tmp_path):
    assert "--secret-file" in refused("serve", "--model", LJ, "--listen", f"tcp:{host}:0")
    empty = tmp_path / "secret"
    empty.write_text("\n")
    words = refused(
        "serve", "--model", LJ, "--listen", f"tcp:{host}:0", "--secret-file", str(empty)
    )
    assert "is empty" in words


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("no-such-model", "no shipped model"),
        ("ase:unobtainium", "not registered"),
        ("ase:lj,charge=1", "no parameter 'charge'"),
        ("ase:lj,sigma=wide", "'wide'"),
        ("ase:lj,sigma=-1", "cutoff"),
    ],
)
def test_a_model_that_cannot_be_served_is_told(model, words, refused, tmp_path):
    assert words in refused("serve", "--model", model, "--listen", f"unix:{tmp_path}/s")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("model", ["wrong.pt", "alloy --committee wrong.pt"])
def test_model_files_are_looked_at_before_any_is_loaded(model, command, tmp_path):
    listen = ("--listen", f"unix:{tmp_path}/s")
    code, out, err = command("serve", *listen, "--model", *model.split())
    assert (code, out) == (1, "")
    assert err.startswith("forcenet-md: error: the model file wrong.pt does not exist: mend the ")
    assert "by its name (alloy, " in err
    assert list(tmp_path.iterdir()) == []


def test_a_log_file_that_cannot_be_opened_is_told(refused, tmp_path):
    words = refused(
        "serve", "--model", LJ, "--listen", f"unix:{tmp_path}/s", "--log-file", "/no/such/log"
    )
    assert "log file" in words


def test_an_address_that_cannot_be_listened_on_is_told(refused, tmp_path):
    (tmp_path / "s").write_text("precious")
    assert "is not a socket" in refused("serve", "--model", LJ, "--listen", f"unix:{tmp_path}/s")
    assert "is not an address" in refused("serve", "--model", LJ, "--listen", "localhost")
    assert (tmp_path / "s").read_text() == "precious"


def test_an_ase_calculator_takes_no_device_and_no_hash(refused, tmp_path):
    listen = ("--listen", f"unix:{tmp_path}/s")
    assert "cpu alone" in refused("serve", "--model", LJ, "--device", "cuda:0", *listen)
    assert "no file to check" in refused("serve", "--model", LJ, "--sha256", "0" * 64, *listen)


@pytest.mark.parametrize(
    "verb", [("inspect", "alloy"), ("inspect", "alloy", "--json"), ("--help",)]
)
def test_a_full_disk_under_the_output_is_one_sentence(verb: tuple[str, ...]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*COMMAND, *verb], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr == "forcenet-md: error: the disk is full: free some space and try again.\n"


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as pipe:
        done = subprocess.run(
            [*COMMAND, "inspect", "alloy"], stdout=pipe, stderr=subprocess.PIPE, text=True,
            check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ["--listen", "unix:/nowhere/s"],
            "unix:/nowhere/s cannot be listened on (its folder does not exist)",
        ),
        (["--listen", "tcp:no.invalid:1"], "the host of tcp:no.invalid:1 is unknown ("),
        (["--secret-file", "/nowhere"], "the secret file /nowhere cannot be read (No such file"),
        (["--log-file", "/nowhere/l"], "the log file /nowhere/l cannot be opened (No such file"),
    ],
)
def test_faults_of_the_system_are_put_in_words(refused, arguments: list[str], sentence: str):
    said = refused("serve", "--model", LJ, *arguments)
    assert sentence in said
    assert "Errno" not in said
    assert ": give " in said


def test_the_line_to_paste_is_quoted_where_it_must_be(tmp_path: Path) -> None:
    (tmp_path / "a b").mkdir()
    address = f"unix:{tmp_path}/a b/s"
    with ServeProcess("--listen", address) as server:
        assert f'forcenet ext "{address}" elements' in server.text


@pytest.mark.parametrize("way", ["in a step", "in a callback, which drops exceptions"])
def test_a_termination_runs_the_clean_up(way: str) -> None:
    code = f"""
import os, signal, weakref
import forcenet_md.cli.main as cli
def verb():
    try:
        if {way == "in a step"}:
            os.kill(os.getpid(), signal.SIGTERM)
        class Thing: pass
        thing = Thing()
        callback = weakref.ref(thing, lambda _: os.kill(os.getpid(), signal.SIGTERM))
        del thing
    finally:
        print("cleaned", flush=True)
    print("never", flush=True)
cli.build_app = lambda: verb
cli.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (143, "")
    assert done.stdout == ("cleaned\n" if way == "in a step" else "")
