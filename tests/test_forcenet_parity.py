"""ForceNet against the reference's numbers and against an evaluator written from its equations."""

from __future__ import annotations

import numpy as np
import numpy_forcenet
import pytest
import torch
from vectors import FOLDER, NAMES, edges, model, system

from forcenet_md.artifact import torchscript
from forcenet_md.artifact.fold import fold
from forcenet_md.models.elements import known_numbers
from forcenet_md.models.forcenet import ABLATIONS, ForceNet, ForceNetConfig

VARIANTS = {
    "default": {},
    "wide": {"hidden": 24, "decoder_hidden": 10, "n_layers": 3, "n_radial": 7},
    "sine": {"edge_basis": "sine"},
    "gaussian": {"edge_basis": "gaussian"},
    "linear": {"edge_basis": "linear"},
    "identity": {"edge_basis": "identity"},
    "none": {"edge_basis": "none"},
    "relu": {"activation": "relu", "decoder_activation": "relu"},
    "embedding": {"node_features": "embedding"},
    "edge 0 node 2": {"n_hidden_edge": 0, "n_hidden_node": 2},
    "edge 3 node 0": {"n_hidden_edge": 3, "n_hidden_node": 0},
    "linear decoder": {"decoder": "linear"},
    "polynomial": {"envelope": "polynomial", "clamp": False},
    "switch": {"envelope": "switch", "clamp": False},
    "smooth": {"envelope": "smooth_cosine", "clamp": False, "norm": "none", "mean_neighbours": 30},
    "edge linear, no norm": {"ablation": "edge_linear", "norm": "none"},
    **{a: {"ablation": a} for a in ABLATIONS if a not in ("none", "only_distance")},
    "only_distance": {"ablation": "only_distance", "edge_basis": "sine"},
    "no_condition, none": {"ablation": "no_condition", "edge_basis": "none"},
}


def tensors(name: str, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    source, target, vector = edges(name)
    return (
        torch.from_numpy(system(name).numbers),
        torch.from_numpy(source),
        torch.from_numpy(target),
        torch.from_numpy(vector).to(dtype),
    )


def variant(changes: dict) -> ForceNet:
    """A small ForceNet whose every parameter and statistic is random, so every term counts."""
    torch.manual_seed(7)
    net = ForceNet(ForceNetConfig.paper(**({"hidden": 16, "n_layers": 2} | changes))).double()
    for name, p in net.named_parameters():
        if p.ndim == 1:
            p.data.uniform_(0.5, 1.5) if name.endswith("weight") else p.data.uniform_(-0.3, 0.3)
    for name, b in net.named_buffers():
        if name.endswith("running_mean"):
            b.uniform_(-0.4, 0.4)
        if name.endswith("running_var"):
            b.uniform_(0.5, 2.0)
    return net.eval()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("dtype", "key", "tolerance"), [(torch.float32, "out", 2e-5), (torch.float64, "out64", 1e-12)]
)
def test_reference_forces_and_auxiliary_head(name, dtype, key, tolerance):
    data = np.load(FOLDER / "sph_swish.npz")
    net = model(FOLDER / "sph_swish.npz").to(dtype)
    with torch.no_grad():
        out = net(*tensors(name, dtype))
        aux = out["auxiliary"].sum() + net.energy_head.bias[0]
    forces = data[f"{key}/{name}/forces"]
    assert np.abs(out["forces"].numpy() - forces).max() <= tolerance * np.abs(forces).max()
    energy = data[f"{key}/{name}/energy"].item()
    assert abs(aux.item() - energy) <= 10 * tolerance * max(1.0, abs(energy))


def test_reference_intermediates():
    """Every step of four structures, in the module and in the NumPy evaluator."""
    data = np.load(FOLDER / "intermediates_sph_swish.npz")
    names = sorted({k.split("/")[0] for k in data.files})
    assert len(names) == 4
    net = model(FOLDER / "sph_swish.npz").double()
    n_filters = 0
    for name in names:
        z, s, t, d = tensors(name, torch.float64)
        ref = lambda key, name=name: data[f"{name}/{key}"].astype(np.float64)  # noqa: E731
        out = numpy_forcenet.evaluate(
            net.config, numpy_forcenet.state(net), z.numpy(), s.numpy(), t.numpy(), d.numpy()
        )
        close = lambda a, b: np.testing.assert_allclose(  # noqa: E731
            np.asarray(a), b, rtol=0, atol=2e-5 * max(1.0, np.abs(b).max(initial=0))
        )
        edge = out["edge"]
        close(out["h0"], ref("h0"))
        close(edge["u"], ref("unit_vec"))
        close(np.concatenate([edge["u"], edge["p"]], axis=1), ref("raw_edge_attr"))
        close(numpy_forcenet.harmonics(edge["u"]), ref("sph"))
        close(edge["b"], ref("basis_out"))
        close(edge["alpha"], ref("edge_weight").ravel())
        h = net.embed(z)
        basis = net.edge_basis(z, s, t, d)
        close(h.detach(), ref("h0"))
        close(basis[:, :-1].detach(), ref("basis_out"))
        for k in range(2):
            close(h.detach(), ref(f"block{k}_in"))
            if f"{name}/block{k}_filter" in data.files:  # stored for the small structures
                n_filters += 1
                close(out["filters"][k], ref(f"block{k}_filter"))
                filters = net.interactions[k].filters(h, s, t, basis[:, :-1])
                close(filters.detach(), ref(f"block{k}_filter"))
            before = h
            h = net.interact(k, h, z, s, t, basis, len(z))
            close((h - before).detach(), ref(f"block{k}_delta"))
        close(net.decode(h).detach(), ref("h_final"))
        close(out["forces"], ref("forces"))
    assert n_filters >= 4


@pytest.mark.parametrize("name", VARIANTS)
def test_variant_against_numpy_and_folded(name):
    """Module, folded module and TorchScript of it against NumPy, to 1e-12 of max |F|."""
    net = variant(VARIANTS[name])
    script = torchscript.load_bytes(
        torchscript.script_bytes(fold(net, list(known_numbers()))),
        torch.device("cpu"),
        torch.float64,
    )
    for structure in ("cu111_co", "lifepo4_like", "mixed_slab_TTF"):
        z, s, t, d = tensors(structure, torch.float64)
        expected = numpy_forcenet.evaluate(
            net.config, numpy_forcenet.state(net), z.numpy(), s.numpy(), t.numpy(), d.numpy()
        )["forces"]
        scale = np.abs(expected).max()
        assert scale > 1e-3
        with torch.no_grad():
            got = net(z, s, t, d)["forces"].numpy()
            folded = script(z, s.int(), t.int(), d)["forces"].numpy()
        assert np.abs(got - expected).max() < 1e-12 * scale
        assert np.abs(folded - expected).max() < 1e-12 * scale


def test_parameter_counts_of_the_paper():
    count = lambda c: sum(p.numel() for p in ForceNet(c).parameters())  # noqa: E731
    assert count(ForceNetConfig.paper()) == 11_363_624
    assert count(ForceNetConfig.paper(hidden=768, n_layers=7)) == 34_810_408


def test_training_and_evaluation_share_the_stages():
    net = variant({"norm": "none"})
    z, s, t, d = tensors("cu111_co", torch.float64)
    net.train()
    trained = net(z, s, t, d)["forces"]
    net.eval()
    assert torch.equal(trained, net(z, s, t, d)["forces"])


@pytest.mark.parametrize("kind", ["smooth_cosine", "polynomial", "switch"])
def test_envelope_ends_with_zero_slope(kind):
    from forcenet_md.models.envelope import Envelope

    r = torch.tensor([6.0 - 1e-4, 6.0], dtype=torch.float64, requires_grad=True)
    alpha = Envelope(kind, 6.0)(r)
    (slope,) = torch.autograd.grad(alpha.sum(), r)
    assert abs(alpha[1].item()) < 1e-14
    assert abs(slope[1].item()) < 1e-13


def test_new_models_are_made_for_dynamics():
    c = ForceNetConfig()
    assert c.envelope == "smooth_cosine"
    assert c.neighbour_cap is None
    assert not c.clamp
    assert c.norm == "none"
    assert c.mean_neighbours is not None
