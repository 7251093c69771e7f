"""Reading ForceNet checkpoints of the Open Catalyst trainer.

A checkpoint is a dictionary with `state_dict` (keys behind zero or more `module.`),
`normalizers` and `config` (`model`, `model_attributes`). It is read with `weights_only=True`.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from forcenet_md.errors import ModelFileError
from forcenet_md.models.basis import SineBasis
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig, linear_at

BASIS_NAMES = {
    "sphallmul": "spherical",
    "powersine": "sine",
    "gauss": "gaussian",
    "linact": "linear",
    "raw": "identity",
    "rawcat": "none",
}
ABLATION_NAMES = {
    "none": "none",
    "nofilter": "no_filter",
    "nocond": "no_condition",
    "nodistlist": "no_radii",
    "onlydist": "only_distance",
    "edgelinear": "edge_linear",
    "nodelinear": "node_linear",
    "noself": "no_self",
}
# Reference names of 2020 and their later ones.
OLD_ATTRIBUTES = {
    "act": "activation_str",
    "decoder_act": "decoder_activation_str",
    "decoder_final_channels": "decoder_hidden_channels",
}
IGNORED_ATTRIBUTES = {
    "num_atoms", "bond_feat_dim", "num_targets", "otf_graph", "use_pbc", "regress_forces",
    "training", "max_n", "feat", "hidden_channels", "num_interactions", "cutoff", "num_freqs",
    "basis", "depth_mlp_edge", "depth_mlp_node", "activation_str", "ablation",
    "decoder_hidden_channels", "decoder_type", "decoder_activation_str", "energy_mlp",
}  # fmt: skip


def _choice(names: Mapping[str, str], key: str, value: str) -> str:
    if value not in names:
        raise ModelFileError(
            f"the checkpoint's {key} is {value!r}: only {', '.join(names)} can be imported."
        )
    return names[value]


def config_from_attributes(attributes: Mapping[str, Any]) -> ForceNetConfig:
    """The ForceNetConfig of the reference's constructor arguments (absent ones: its defaults).

    Raises ModelFileError for values this package does not have.
    """
    a = {OLD_ATTRIBUTES.get(k, k): v for k, v in attributes.items()}
    unknown = sorted(set(a) - IGNORED_ATTRIBUTES)
    if unknown:
        raise ModelFileError(
            f"the checkpoint has model attributes that are not known: {', '.join(unknown)};"
            " it is not a ForceNet checkpoint of the Open Catalyst trainer."
        )
    if a.get("max_n", 3) != 3:
        raise ModelFileError(
            f"the checkpoint's max_n is {a['max_n']}: only 3 (l = 0…2) can be imported."
        )
    hidden = int(a.get("hidden_channels", 512))
    return ForceNetConfig.paper(
        hidden=hidden,
        n_layers=int(a.get("num_interactions", 5)),
        cutoff=float(a.get("cutoff", 6.0)),
        edge_basis=_choice(BASIS_NAMES, "basis", a.get("basis", "sphallmul")),
        n_frequencies=int(a.get("num_freqs", 50)),
        n_hidden_edge=int(a.get("depth_mlp_edge", 2)),
        n_hidden_node=int(a.get("depth_mlp_node", 1)),
        activation=a.get("activation_str", "swish"),
        node_features={"full": "properties", "simple": "embedding"}[a.get("feat", "full")],
        ablation=_choice(ABLATION_NAMES, "ablation", a.get("ablation", "none")),
        decoder=a.get("decoder_type", "mlp"),
        decoder_hidden=int(a.get("decoder_hidden_channels", 512)),
        decoder_activation=a.get("decoder_activation_str", "swish"),
    )


def _rename(key: str) -> str | None:
    """Our name of a reference key; None for what we keep elsewhere."""
    if key.startswith("decoder.decoder."):
        return "decoder." + key.removeprefix("decoder.decoder.")
    head, _, rest = key.partition(".")
    if head == "interactions":
        k, _, rest = rest.partition(".")
        names = {
            "center_W": "self_weight",
            "lin_basis": "edge_filter",
            "mlp_edge": "edge_mlp",
            "lin": "node_filter",
            "mlp_trans": "node_mlp",
        }
        part, _, tail = rest.partition(".")
        return f"interactions.{k}.{names.get(part, part)}{'.' + tail if tail else ''}"
    if head == "basis_fun":
        if rest.startswith("lin."):
            return "basis.radial." + rest.removeprefix("lin.")
        if rest.endswith(("freq_filter", "offset")):
            return None  # fixed by the configuration; frequencies are checked below
        return "basis.scalar.linear." + rest.rpartition(".")[2]
    if head == "embedding":
        if rest.startswith("1."):
            return key
        if rest.endswith(("freq_filter", "offset")):
            return None
        return key if rest == "weight" else "embedding.0.linear." + rest.rpartition(".")[2]
    return {"lin": "decoder_in", "energy_mlp": "energy_head"}.get(head, head) + "." + rest


def load_state(model: ForceNet, state: Mapping[str, Tensor]) -> None:
    """Fill a ForceNet with a reference state_dict (keys behind any number of `module.`).

    Raises ModelFileError when keys or shapes do not fit the configuration.
    """
    state = {k.replace("module.", ""): v for k, v in state.items()}
    own = model.state_dict()
    filled: dict[str, Tensor] = {}
    for key, value in state.items():
        if key == "atom_radii":
            filled["basis.radii"] = value
        elif key == "atom_map":
            filled["properties"] = value
        elif (name := _rename(key)) in own:
            filled[str(name)] = value
    _check_frequencies(model, state)
    # What is fixed by the configuration, or that evaluation does not read, may be absent.
    fixed = ("properties", "frequencies", "centres", "num_batches_tracked")
    optional = {k for k in own if k.endswith(fixed)}
    missing = sorted(set(own) - set(filled) - optional)
    filled = {k: v for k, v in filled.items() if k in own}
    wrong = [k for k, v in filled.items() if v.shape != own[k].shape]
    if missing or wrong:
        raise ModelFileError(
            "the checkpoint's weights do not fit its model attributes: "
            + (f"missing {', '.join(missing[:3])}" if missing else f"wrong shape of {wrong[0]}")
            + "; it was written by another model or another version."
        )
    model.load_state_dict(filled, strict=False)


def _check_frequencies(model: ForceNet, state: Mapping[str, Tensor]) -> None:
    """The stored sine filters must be the ones our basis computes: 1e-7 matters."""
    for module, prefix, key in (
        (model.basis.scalar, "basis_fun.", "basis"),
        (
            model.embedding[0] if isinstance(model.embedding, nn.Sequential) else None,
            "embedding.",
            "embedding",
        ),
    ):
        stored = [v for k, v in state.items() if k.startswith(prefix) and "freq_filter" in k]
        if not isinstance(module, SineBasis) or not stored:
            continue
        n = module.frequencies.numel()
        if stored[0].numel() % n:
            raise ModelFileError(f"the checkpoint's {key} has other sine frequencies.")
        # The stored filter repeats each frequency for every input, frequency-major.
        values = stored[0].reshape(n, -1)
        if not torch.equal(values, values[:, :1].expand_as(values)):
            raise ModelFileError(f"the checkpoint's {key} has other sine frequencies.")
        module.frequencies.copy_(values[:, 0])


def read_checkpoint(path: str | Path) -> ForceNet:
    """A ForceNet in eval mode from a trainer checkpoint.

    Raises ModelFileError when the file cannot be read, is no ForceNet, or does not fit.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist: give a trainer checkpoint.") from None
    except OSError as e:
        raise ModelFileError(
            f"{path} cannot be read ({e.strerror}): give a trainer checkpoint."
        ) from None
    except Exception:
        # torch's own words are many, and advise to run what the file holds.
        raise ModelFileError(
            f"{path} cannot be read as a trainer checkpoint without running its code: give the .pt"
            " file that the Open Catalyst trainer wrote."
        ) from None
    if not isinstance(data, dict) or "state_dict" not in data or "config" not in data:
        raise ModelFileError(
            f"{path} is no Open Catalyst trainer checkpoint: it has no state_dict and config."
        )
    config = data["config"]
    if config.get("model", "forcenet") != "forcenet":
        raise ModelFileError(f"{path} holds a {config['model']}, not a forcenet.")
    model = ForceNet(config_from_attributes(config.get("model_attributes", {})))
    load_state(model, data["state_dict"])
    _denormalise(model, data.get("normalizers") or {})
    return model.eval()


def _denormalise(model: ForceNet, normalizers: Mapping[str, Any]) -> None:
    """Put F = f·std + mean into the decoder's last Linear (only if labels were normalised)."""
    if "grad_target" not in normalizers:
        return
    std = float(normalizers["grad_target"]["std"])
    mean = float(normalizers["grad_target"]["mean"])
    last = linear_at(model.decoder, len(model.decoder) - 1)
    with torch.no_grad():
        last.weight.mul_(std)
        last.bias.mul_(std).add_(mean)
