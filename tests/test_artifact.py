"""The model file: what is written, what is refused before anything runs."""

from __future__ import annotations

import io
import json
import pickle
import shutil
import subprocess
import sys
import warnings
import zipfile
from dataclasses import asdict

import numpy as np
import pytest
import torch
from models import ALLOY, write_model
from vectors import FOLDER, NAMES, STRUCTURES, edges, model, system

from forcenet_md.artifact import archive, torchscript
from forcenet_md.artifact.check import check_program
from forcenet_md.artifact.export import export_model, load_model, read_card
from forcenet_md.artifact.opencatalyst import read_checkpoint
from forcenet_md.errors import ModelFileError, UnknownElementError
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig


@pytest.fixture
def path(tmp_path):
    write_model(tmp_path / "small.pt")
    return tmp_path / "small.pt"


def random_graph(seed: int = 0) -> tuple[torch.Tensor, ...]:
    g = torch.Generator().manual_seed(seed)
    z = torch.tensor(ALLOY)
    target = torch.arange(5).repeat_interleave(4)
    source = (target + torch.arange(1, 5).repeat(5)) % 5
    vector = torch.randn(20, 3, generator=g, dtype=torch.float64) * 2
    return z, source, target, vector


def test_what_is_loaded_computes_what_was_exported(tmp_path):
    torch.manual_seed(0)
    net = ForceNet(ForceNetConfig(hidden=16)).eval()
    card = export_model(
        net,
        tmp_path / "a.pt",
        name="a",
        numbers=ALLOY,
        augmentation="so3",
        training_data={"description": "d", "licence": "l", "citation": "c"},
        test_errors={"force_mae_eV_per_A": 0.1},
    )
    z, s, t, d = random_graph()
    expected = net.double()(z, s, t, d)["forces"].detach()
    for dtype, tolerance in ((torch.float64, 1e-13), (torch.float32, 1e-5)):
        module, found = load_model(tmp_path / "a.pt", dtype=dtype)
        got = module(z, s, t, d.to(dtype))["forces"]
        assert got.dtype == dtype
        assert (got.double() - expected).abs().max() <= tolerance * expected.abs().max()
        assert found == card
    assert found.settings == asdict(net.config)
    assert found.elements == ["Cu", "Pd", "Ag", "Pt", "Au"]
    assert (found.n_layers, found.n_exchanges) == (2, 1)


def test_float64_is_not_float32_in_disguise(path):
    z, s, t, d = random_graph()
    double, _ = load_model(path, dtype=torch.float64)
    single, _ = load_model(path, dtype=torch.float32)
    a = double(z, s, t, d)["forces"]
    b = single(z, s, t, d.float())["forces"].double()
    assert 1e-9 < (a - b).abs().max() / a.abs().max() < 1e-5
    # A change below float32's resolution is seen in float64 only.
    moved = d.clone()
    moved[0, 0] *= 1 + 1e-12
    assert not torch.equal(double(z, s, t, moved)["forces"], a)


def test_same_weights_give_the_same_file_without_paths_of_the_builder(tmp_path):
    write_model(tmp_path / "one.pt", seed=3)
    (tmp_path / "x").mkdir()
    write_model(tmp_path / "x" / "one.pt", seed=3)
    data = (tmp_path / "one.pt").read_bytes()
    assert data == (tmp_path / "x" / "one.pt").read_bytes()
    assert str(archive.__file__).rpartition("/forcenet_md/")[0].encode() not in data


def test_loads_without_this_package(path, tmp_path):
    """The exported code is plain torch."""
    shutil.copy(path, tmp_path / "alone.pt")
    code = (
        "import sys, warnings, torch; warnings.simplefilter('ignore');"
        "m = torch.jit.load('alone.pt'); z = torch.tensor([29, 47]);"
        "i = torch.tensor([0, 1]); d = torch.tensor([[2.5, 0, 0], [-2.5, 0, 0]]).double();"
        "assert m(z, i, 1 - i, d)['forces'].shape == (2, 3);"
        "assert not any(n.startswith('forcenet_md') for n in sys.modules)"
    )
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path)


def test_stages_are_there_after_freezing(path):
    module, card = load_model(path, dtype=torch.float64)
    z, s, t, d = random_graph()
    h = module.embed(z)
    basis = module.edge_basis(z, s, t, d)
    for k in range(card.n_layers):
        h = module.interact(k, h, z, s, t, basis, 5)
    assert torch.equal(module.readout(h, z)["forces"], module(z, s, t, d)["forces"])


def test_ghost_rows_are_sources_only(path):
    """interact with n_owned < n_all: the owned rows are those of the whole graph."""
    module, _ = load_model(path, dtype=torch.float64)
    z, s, t, d = random_graph()
    h = module.embed(z)
    basis = module.edge_basis(z, s, t, d)
    whole = module.interact(0, h, z, s, t, basis, 5)
    mine = t < 3
    part = module.interact(0, h, z, s[mine], t[mine], basis[mine], 3)
    assert part.shape == (3, 16)
    assert (part - whole[:3]).abs().max() < 1e-14


def refused(path, match):
    with pytest.raises(ModelFileError, match=match) as e:
        load_model(path)
    assert "\n" not in str(e.value)
    with pytest.raises(ModelFileError):
        read_card(path)


def test_missing_foreign_pickled_truncated(path, tmp_path):
    refused(tmp_path / "none.pt", "does not exist")
    refused(tmp_path, "is a folder")
    (tmp_path / "text.pt").write_text("not a model")
    refused(tmp_path / "text.pt", "not a zip archive")
    (tmp_path / "empty.pt").write_bytes(b"")
    refused(tmp_path / "empty.pt", "not a zip archive")
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    (tmp_path / "bomb.pt").write_bytes(pickle.dumps(Bomb()))
    refused(tmp_path / "bomb.pt", "a pickle")
    torch.save({"x": Bomb()}, tmp_path / "zip.pt")
    refused(tmp_path / "zip.pt", "pickled PyTorch file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "foreign.pt")
    refused(tmp_path / "foreign.pt", "TorchScript file without a model card")
    data = path.read_bytes()
    for keep in (10, len(data) // 2, len(data) - 30):
        (tmp_path / "cut.pt").write_bytes(data[:keep])
        refused(tmp_path / "cut.pt", "truncated or damaged")
    (tmp_path / "gap.pt").write_bytes(data[:1000] + data[1010:])
    refused(tmp_path / "gap.pt", "truncated or damaged")
    assert not canary.exists()


def test_one_flipped_weight_bit(path):
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as z:
        name = max((i for i in z.infolist() if "/data/" in i.filename), key=lambda i: i.file_size)
        start = name.header_offset + 30 + len(name.filename)
    data[start + 100] ^= 1
    path.write_bytes(data)
    refused(path, "truncated or damaged")  # the zip's own checksum sees it first
    # With the checksum made right the sha256 still tells.
    found = zipfile.ZipFile(io.BytesIO(write_again(data, name.filename)))
    path.write_bytes(found.fp.getvalue())
    refused(path, "do not match the sha256")


def write_again(data: bytes, flipped: str) -> bytes:
    """The archive with the bytes as they are and fresh zip checksums."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            with old.open(info) as f:
                f._expected_crc = None
                new.writestr(info.filename, f.read())
    return out.getvalue()


class WritesAtLoad(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.x = torch.zeros(1)

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.x, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.x = state[0]
        self.training = state[1]
        torch.save(self.x, "canary")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class WritesInForward(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "canary")
        return x


class MapsAFile(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.from_file("canary", shared=True, size=4)


def with_card(module: torch.nn.Module, path, honest_card) -> None:
    """A file of a foreign program whose card and hash are right."""
    members = archive.strip(torchscript.script_bytes(module))
    archive.write(path, members, honest_card)


@pytest.mark.parametrize(
    ("module", "match"),
    [
        (WritesAtLoad, "__setstate__|__getstate__|torch.save"),
        (WritesInForward, r"torch\.save"),
        (MapsAFile, "torch.from_file"),
    ],
)
def test_programs_that_write_are_refused_before_they_run(
    module, match, path, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with_card(module(), tmp_path / "evil.pt", read_card(path))
    with pytest.raises(ModelFileError, match=match) as e:
        load_model(tmp_path / "evil.pt")
    assert "\n" not in str(e.value)
    assert not (tmp_path / "canary").exists()


def test_the_canary_would_sing(path, tmp_path, monkeypatch):
    """Loading such a file with --trust does write: the refusal above is what prevents it."""
    monkeypatch.chdir(tmp_path)
    with_card(WritesAtLoad(), tmp_path / "evil.pt", read_card(path))
    with pytest.raises(Exception, match="embed"):  # it has no stages
        load_model(tmp_path / "evil.pt", trust=True)
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize(
    "code",
    [
        "import os\n",
        "class A(Module):\n  def forward(self, x):\n    return ops.aten.save(x, 'f')\n",
        "class A(Module):\n  def forward(self, x):\n    return torch.ops.aten.save(x)\n",
        "class A(Module):\n  def forward(self, x):\n    return open('f')\n",
        "class A(Module):\n  def forward(self, x):\n    return (x).save('f')\n",
        "class A(Module):\n  def forward(self, x):\n    return getattr(x, 'save')('f')\n",
        "class A(Module):\n  def forward(self, x):\n    return getattr(x, x)('f')\n",
        "class A(Module):\n  def forward(self, x):\n    t = torch\n    return t.add(x, x)\n",
        "class A(Module):\n  def forward(self, x):\n    t = ops.aten\n    return t.save(x)\n",
        "class A(Module):\n  def forward(self, x):\n    open = x\n    return open('f')\n",
        "class A(Module):\n  x : __torch__.torch.classes.evil.Thing\n",
        "class A(Module):\n  def forward(self, x):\n    with x:\n      pass\n",
        "def (",
    ],
)
def test_code_outside_the_allow_list(code):
    with pytest.raises(ModelFileError, match="refused before running"):
        check_program({"code/__torch__/a.py": code.encode()}, "m.pt")


def test_pickles_outside_the_allow_list():
    for evil in (b"cos\nsystem\n(S'true'\ntR.", pickle.dumps(open), b"\x80\x04garbage"):
        with pytest.raises(ModelFileError, match="refused before running"):
            check_program({"data.pkl": evil}, "m.pt")


def test_pinned_hash(path):
    card = read_card(path)
    load_model(path, sha256=card.sha256)
    with pytest.raises(ModelFileError, match="another model than the one asked for"):
        load_model(path, sha256="0" * 64)


def test_incomplete_or_newer_cards(path, tmp_path):
    torch.manual_seed(0)
    net = ForceNet(ForceNetConfig(hidden=8))
    good = {
        "name": "x",
        "numbers": ALLOY,
        "augmentation": "none",
        "training_data": {"description": "d", "licence": "l", "citation": "c"},
        "test_errors": {},
    }
    for change, match in (
        ({"training_data": {"description": "d", "licence": ""}}, "training_data"),
        ({"augmentation": "some"}, "augmentation"),
        ({"name": "a b"}, "name"),
        ({"numbers": []}, "elements"),
    ):
        with pytest.raises(ModelFileError, match=match):
            export_model(net, tmp_path / "x.pt", **(good | change))
        assert not (tmp_path / "x.pt").exists()
    with pytest.raises(UnknownElementError, match="Kr"):
        export_model(net, tmp_path / "x.pt", **(good | {"numbers": [36]}))
    members = archive.read(path).members
    fields = json.loads(read_card(path).model_dump_json())
    without = {name: value for name, value in fields.items() if name != "net_force_removed"}
    (tmp_path / "without.pt").write_bytes(
        archive.to_zip(members | {archive.CARD: json.dumps(without).encode()})
    )
    refused(tmp_path / "without.pt", "net_force_removed")
    fields["format_version"] = 99
    newer = members | {archive.CARD: json.dumps(fields).encode()}
    (tmp_path / "new.pt").write_bytes(archive.to_zip(newer))
    refused(tmp_path / "new.pt", "format version 99")


def test_disk_full(monkeypatch, path, tmp_path):
    def full(self, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    with pytest.raises(ModelFileError, match="No space left"):
        write_model(tmp_path / "b.pt")
    assert not list(tmp_path.glob("b.pt*"))


def test_no_folder_to_write_to(path):
    with pytest.raises(ModelFileError, match="Not a directory"):
        write_model(path / "b.pt")


@pytest.fixture
def checkpoint(tmp_path):
    """A trainer checkpoint made of the reference's state_dict."""
    data = np.load(FOLDER / "sph_swish.npz")
    state = {
        "module.module." + k.removeprefix("state/"): torch.from_numpy(data[k])
        for k in data.files
        if k.startswith("state/")
    }
    content = {
        "state_dict": state,
        "normalizers": {},
        "config": {
            "model": "forcenet",
            "model_attributes": json.loads(str(data["config_json"]))
            | {"otf_graph": True, "act": "swish", "max_n": 3},
        },
    }
    torch.save(content, tmp_path / "checkpoint.pt")
    return tmp_path / "checkpoint.pt"


@pytest.mark.parametrize(
    ("dtype", "key", "tolerance"), [(torch.float32, "out", 2e-5), (torch.float64, "out64", 1e-12)]
)
def test_convert_gives_the_checkpoints_forces(checkpoint, tmp_path, dtype, key, tolerance):
    from typer.testing import CliRunner

    from forcenet_md.cli.main import build_app

    out = tmp_path / "oc.pt"
    result = CliRunner().invoke(build_app(), ["convert", str(checkpoint), str(out)])
    assert result.exit_code == 0, result.output
    assert read_card(out).neighbour_cap == 50
    again = CliRunner().invoke(build_app(), ["convert", str(checkpoint), str(out)])
    assert again.exit_code == 1
    assert "exists already" in str(again.exception)
    data = np.load(FOLDER / "sph_swish.npz")
    module, _ = load_model(out, dtype=dtype)
    for name in NAMES:
        source, target, vector = edges(name)
        forces = module(
            torch.from_numpy(system(name).numbers),
            torch.from_numpy(source),
            torch.from_numpy(target),
            torch.from_numpy(vector).to(dtype),
        )["forces"].numpy()
        expected = data[f"{key}/{name}/forces"]
        assert np.abs(forces - expected).max() <= tolerance * np.abs(expected).max()
    assert len(STRUCTURES.files) == 7 * len(NAMES)


def test_checkpoint_without_batch_counters(checkpoint):
    """Files of old torch versions have no num_batches_tracked."""
    content = torch.load(checkpoint, weights_only=True)
    state = {k: v for k, v in content["state_dict"].items() if "num_batches" not in k}
    assert len(state) < len(content["state_dict"])
    torch.save(content | {"state_dict": state}, checkpoint)
    z, s, t, d = random_graph()
    with torch.no_grad():
        expected = model(FOLDER / "sph_swish.npz")(z, s, t, d.float())["forces"]
        assert torch.equal(read_checkpoint(checkpoint)(z, s, t, d.float())["forces"], expected)


def test_checkpoint_with_normalised_labels(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    content["normalizers"] = {
        "target": {"mean": torch.tensor(0.0), "std": torch.tensor(1.0)},
        "grad_target": {"mean": torch.tensor(0.25), "std": torch.tensor(3.0)},
    }
    torch.save(content, checkpoint)
    z, s, t, d = random_graph()
    with torch.no_grad():
        plain = model(FOLDER / "sph_swish.npz")(z, s, t, d.float())["forces"]
        scaled = read_checkpoint(checkpoint)(z, s, t, d.float())["forces"]
    assert torch.allclose(scaled, plain * 3 + 0.25, atol=1e-4 * float(plain.abs().max()))


def test_checkpoints_that_cannot_be_imported(checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)

    def attempt(match, **changes):
        torch.save(content | changes, checkpoint)
        with pytest.raises(ModelFileError, match=match) as e:
            read_checkpoint(checkpoint)
        assert "\n" not in str(e.value)

    attributes = content["config"]["model_attributes"]
    config = content["config"]
    attempt("holds a schnet", config=config | {"model": "schnet"})
    attempt(
        "attributes that are not known",
        config=config | {"model_attributes": attributes | {"speed": 1}},
    )
    attempt("max_n", config=config | {"model_attributes": attributes | {"max_n": 5}})
    attempt(
        "do not fit",
        config=config | {"model_attributes": attributes | {"num_interactions": 3}},
    )
    attempt(
        "do not fit",
        config=config | {"model_attributes": attributes | {"hidden_channels": 32}},
    )
    state = dict(content["state_dict"])
    key = "module.module.basis_fun.smearing_sine.freq_filter"
    attempt("other sine frequencies", state_dict=state | {key: torch.rand_like(state[key])})
    canary = tmp_path / "canary"

    class Bomb:
        def __reduce__(self):
            return (open, (str(canary), "w"))

    torch.save({"state_dict": Bomb()}, checkpoint)
    with pytest.raises(ModelFileError, match="without running its code"):
        read_checkpoint(checkpoint)
    assert not canary.exists()
    with pytest.raises(ModelFileError, match="does not exist"):
        read_checkpoint(tmp_path / "none.pt")


def test_convert_spares_the_checkpoint_and_takes_any_name(checkpoint, tmp_path):
    from typer.testing import CliRunner

    from forcenet_md.cli.main import build_app

    def convert(*arguments):
        return CliRunner().invoke(build_app(), ["convert", str(checkpoint), *map(str, arguments)])

    before = checkpoint.read_bytes()
    done = convert(checkpoint)
    assert isinstance(done.exception, ModelFileError)
    assert "is the checkpoint itself" in str(done.exception)
    assert checkpoint.read_bytes() == before
    assert "',' is no element" in str(convert(tmp_path / "m.pt", "--elements", ",").exception)
    assert convert(tmp_path / "my model é.pt").exit_code == 0
    assert read_card(tmp_path / "my model é.pt").name == "my_model__"


@pytest.mark.parametrize("content", [b"", b"PK", b"hello", pickle.dumps({"a": 1})])
def test_what_torch_says_of_other_files_is_not_passed_on(content, tmp_path):
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(ModelFileError, match=r"its code: give the \.pt file that the Open") as e:
        read_checkpoint(tmp_path / "c.pt")
    assert len(str(e.value)) < 200 + len(str(tmp_path))
    with pytest.raises(ModelFileError, match=r"cannot be read \(Is a directory\)"):
        read_checkpoint(tmp_path)
