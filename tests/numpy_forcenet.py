"""ForceNet in float64 NumPy, written from the equations alone, one edge term after the other.

It shares no code with the package: an independent reference for every variant. Input is the
trainable module's state_dict (as arrays) and its configuration.

h⁰ = Linear(B(f)); per layer ε = F_b b, z = [ε, h_s, h_t], m_s = α F_e(z) ⊙ F_d h_s,
x_t = Σ m + w ⊙ F_d h_t, h ← h + F_n(x); forces = decoder(act(Linear h)).
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Array = np.ndarray


def act(name: str, x: Array) -> Array:
    return np.maximum(x, 0) if name == "relu" else x * (1 + np.tanh(x / 2)) / 2


def linear(s: dict[str, Array], key: str, x: Array) -> Array:
    return x @ s[key + ".weight"].T + s[key + ".bias"]


def batch_norm(s: dict[str, Array], key: str, x: Array) -> Array:
    centred = (x - s[key + ".running_mean"]) / np.sqrt(s[key + ".running_var"] + 1e-5)
    return centred * s[key + ".weight"] + s[key + ".bias"]


def sequence(s: dict[str, Array], key: str, x: Array, activation: str) -> Array:
    """Layers key.0, key.1 …: a Linear has a 2-d weight, a batch norm a 1-d one, an activation
    none."""
    last = max(int(k[len(key) + 1 :].split(".")[0]) for k in s if k.startswith(key + "."))
    for i in range(last + 1):
        weight = s.get(f"{key}.{i}.weight")
        if weight is None:
            x = act(activation, x)
        elif weight.ndim == 2:
            x = linear(s, f"{key}.{i}", x)
        else:
            x = batch_norm(s, f"{key}.{i}", x)
    return x


def scalar_basis(c: Any, s: dict[str, Array], key: str, x: Array) -> Array:
    n = c.n_frequencies
    if c.edge_basis in ("spherical", "sine"):
        phi = (np.float64(np.float32(1.1)) ** np.arange(n)).astype(np.float32)
        return np.concatenate([np.sin(np.float64(f) * x) for f in phi], axis=1)
    if c.edge_basis == "gaussian":
        mu = s[key + ".centres"]
        return np.concatenate([np.exp(-((x - m) ** 2) * (n - 1) ** 2 / 2) for m in mu], axis=1)
    if c.edge_basis == "linear":
        return act(c.activation, linear(s, key + ".linear", x))
    return x


def harmonics(u: Array) -> Array:
    """Complex Y_lm with Condon–Shortley phase by the associated Legendre recursion."""
    x, y, z = u.T
    phi = np.arctan2(y, x)
    rho = np.sqrt(x * x + y * y)
    legendre = {  # P_l^m(cos θ) with the phase (−1)^m, sin θ = rho
        (0, 0): np.ones_like(z),
        (1, 0): z,
        (1, 1): -rho,
        (2, 0): (3 * z * z - 1) / 2,
        (2, 1): -3 * z * rho,
        (2, 2): 3 * rho * rho,
    }

    def norm(n: int, m: int) -> float:
        return math.sqrt(
            (2 * n + 1) / (4 * math.pi) * math.factorial(n - m) / math.factorial(n + m)
        )

    order = [(0, 0), (1, 0), (2, 0)]
    real = [norm(n, m) * legendre[n, m] * np.cos(m * phi) for n, m in order]
    plus = [(1, 1), (2, 1), (2, 2)]
    real += [norm(n, m) * legendre[n, m] * np.cos(m * phi) for n, m in plus]
    return np.stack(real + [norm(n, m) * legendre[n, m] * np.sin(m * phi) for n, m in plus], axis=1)


def envelope(c: Any, r: Array) -> Array:
    x = r / c.cutoff
    if c.envelope == "cosine":
        return np.cos(np.pi * x / 2)
    if c.envelope == "smooth_cosine":
        return (1 + np.cos(np.pi * x)) / 2
    if c.envelope == "switch":
        return np.where(x < 0.7, 1.0, (1 + np.cos(np.pi * (x - 0.7) / 0.3)) / 2)
    return 1 - 28 * x**6 + 48 * x**7 - 21 * x**8


def edge_basis(c: Any, s: dict[str, Array], z: Array, src: Array, tgt: Array, d: Array) -> dict:
    r = np.sqrt((d * d).sum(1))
    u = d / r[:, None]
    if c.ablation == "no_radii":
        p = r[:, None] / c.cutoff
    else:
        a = s["basis.radii"][z]
        p = np.stack([r, r - a[src], r - a[tgt], r - a[src] - a[tgt]], axis=1) / c.cutoff
    if c.clamp:
        p = np.maximum(p, 1e-3)
    if c.edge_basis == "spherical":
        radial = linear(s, "basis.radial", scalar_basis(c, s, "basis.scalar", p))
        b = np.einsum("ek,ej->ekj", harmonics(u), radial).reshape(len(r), -1)
    else:
        if c.edge_basis == "gaussian":
            u = (u + 1) / 2
        e = p if c.ablation == "only_distance" else np.concatenate([u, p], axis=1)
        b = scalar_basis(c, s, "basis.scalar", e)
    scale = 1.0 if c.mean_neighbours is None else 1 / math.sqrt(c.mean_neighbours)
    return {"u": u, "p": p, "b": b, "alpha": envelope(c, r) * scale}


def evaluate(c: Any, s: dict[str, Array], z: Array, src: Array, tgt: Array, d: Array) -> dict:
    """Forces [n_atoms, 3] and intermediates."""
    if c.node_features == "embedding":
        h = s["embedding.weight"][z]
    else:
        f = s["properties"][z]
        h = linear(s, "embedding.1", scalar_basis(c, s, "embedding.0", f))
    edge = edge_basis(c, s, z, src, tgt, d)
    out = {"h0": h, "edge": edge, "filters": [], "h": []}
    for k in range(c.n_layers):
        key = f"interactions.{k}"
        eps = edge["b"] if c.edge_basis == "none" else linear(s, key + ".edge_filter", edge["b"])
        zz = eps if c.ablation == "no_condition" else np.concatenate([eps, h[src], h[tgt]], axis=1)
        filters = sequence(s, key + ".edge_mlp", zz, c.activation)
        out["filters"].append(filters)
        m = edge["alpha"][:, None] * filters
        if c.ablation != "no_filter":
            y = linear(s, key + ".node_filter", h)
            m = m * y[src]
        x = np.zeros_like(h)
        np.add.at(x, tgt, m)
        if c.ablation == "no_filter":
            x = x + s[key + ".self_weight"]
        elif c.ablation != "no_self":
            x = x + s[key + ".self_weight"] * y
        h = h + sequence(s, key + ".node_mlp", x, c.activation)
        out["h"].append(h)
    g = act(c.activation, linear(s, "decoder_in", h))
    out["forces"] = sequence(s, "decoder", g, c.decoder_activation)
    return out


def state(model: Any) -> dict[str, Array]:
    return {k: v.detach().double().numpy() for k, v in model.state_dict().items()}
