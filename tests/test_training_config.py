"""The configuration of a run: packaged ones, overrides, errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from training_runs import write_config

from forcenet_md.errors import DataError
from forcenet_md.models.forcenet import ForceNet, ForceNetConfig
from forcenet_md.training.config_file import load_config, packaged
from forcenet_md.training.finish import check_outputs
from forcenet_md.training.schedule import learning_rate


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.batch=0", "training.batch"),
        ("training.bach=2", "training.bach: there is no such setting; take training.batch"),
        ("trainig.steps=2", "trainig: there is no such setting; take training"),
        ("seconds=5", "seconds: there is no such setting; take training.seconds"),
        ("training.steps=abc", "unable to parse string as an integer, not abc"),
        ("model.widht=3", "'widht' is no setting of the model; take one as "),
        ("model.n_layer=3", "no setting of the model; take one as n_layers, "),
        ("model.envelope=none", "model"),
        ("model.cutoff=0", "model: cutoff must be a positive number, not 0"),
        ("model.cutoff=-1", "model: cutoff must be a positive number"),
        ("model.cutoff=.nan", "model: cutoff must be a positive number"),
        ("model.cutoff=six", "model: cutoff must be a positive number, not 'six'"),
        ("model.mean_neighbours=0", "model: mean_neighbours must be a positive number"),
        ("model.hidden=0", "model: hidden must be an integer of at least 1, not 0"),
        ("model.hidden=8.5", "model: hidden must be an integer"),
        ("model.n_hidden_edge=-1", "model: n_hidden_edge must be an integer of at least 0"),
        ("training.steps=[", "its value is no YAML"),
        ("training.steps=null", "training: give a budget as one of steps, epochs and seconds"),
        ("training.weight_decay=0.1", "training: weight_decay needs optimizer: adamw"),
        ("training.warmup=1", "training.warmup"),
        ("training.precision=half", "training.precision"),
        ("augmentation.rotations=x", "augmentation.rotations"),
        ("loss.kind=l3", "loss.kind"),
        ("loss.element_weights={Q: 1}", "loss.element_weights: 'Q' is no element"),
        ("loss.element_weights={Cu: -1}", "the weight of Cu must be a number"),
        ("export=worst", "export"),
        ("data.train=[]", "data.train"),
        ("data.validation=3", "data.validation"),
        ("nonsense", "write key=value"),
    ],
)
def test_a_wrong_key_is_named(labelled: Path, tmp_path: Path, override: str, message: str) -> None:
    with pytest.raises(DataError) as raised:
        load_config(write_config(tmp_path, labelled), [override])
    assert message in str(raised.value)


@pytest.mark.parametrize("key", ["training.qqqq", "model.qqqq", "qqqq"])
def test_where_no_key_is_near_few_are_listed(key: str, labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no such setting|no setting of the model") as e:
        load_config(write_config(tmp_path, labelled), [f"{key}=1"])
    assert 3 <= str(e.value).count(", ") <= 4


def test_frames_are_not_both_learned_and_watched(labelled: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.extxyz"
    link.symlink_to(labelled)
    path = write_config(tmp_path, labelled)
    with pytest.raises(DataError, match=r"data\.validation: \S+link\.extxyz is in data\.train too"):
        load_config(path, [f"data.validation={link}"])


def test_frames_are_not_both_seen_and_tested_on(labelled: Path, tmp_path: Path) -> None:
    """A test error on such frames would stand in the card as one on frames it never saw."""
    path = write_config(tmp_path, labelled)
    for train in (labelled, labelled.parent):
        with pytest.raises(
            DataError, match=r"data\.test: \S+ is in data\.train too: test on frames"
        ):
            load_config(path, [f"data.train={train}", f"data.test={labelled}"])
    both = [f"data.{name}={tmp_path}/b.extxyz" for name in ("validation", "test")]
    with pytest.raises(DataError, match=r"data\.test: \S+ is in data\.validation too"):
        load_config(path, both)
    # A store is no part of the folder it lies in.
    load_config(path, [f"data.train={tmp_path}", f"data.test={tmp_path}/test.h5"])


def test_two_budgets_or_batches_in_a_file_are_refused(labelled: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one of steps, epochs and seconds"):
        load_config(write_config(tmp_path, labelled, seconds=5))
    with pytest.raises(DataError, match="either batch"):
        load_config(write_config(tmp_path, labelled, batch=2, batch_edges=500))


def test_a_budget_on_the_command_line_replaces_the_files(labelled: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path, labelled)
    training = load_config(path, ["training.epochs=3", "training.batch_edges=900"]).training
    assert (training.steps, training.epochs) == (None, 3.0)
    assert (training.batch, training.batch_edges) == (None, 900)


def test_a_configuration_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(b"\x80\xff\x00")
    with pytest.raises(DataError, match=r"binary\.yaml is no text: give the YAML file"):
        load_config(tmp_path / "binary.yaml")


def test_a_name_that_is_none_lists_the_packaged_ones() -> None:
    with pytest.raises(DataError, match="one of forcenet, forcenet-large, small, tiny"):
        load_config("smal")
    with pytest.raises(DataError, match=r"data\.train: it must be given"):
        load_config("small")


@pytest.mark.parametrize("name", packaged())
def test_packaged_configurations_need_only_the_frames(name: str) -> None:
    config = load_config(name, ["data.train=some file.extxyz"])
    assert config.card_name == "m"
    assert load_config(name, ["data.train=a", "output=my model.pt"]).card_name == "my_model"
    assert config.card_description == "trained on some file.extxyz, not described further"
    assert config.card.licence == "licence not stated"
    assert config.card.citation == "citation not stated"
    ForceNetConfig(**config.model)


def test_the_papers_configurations_are_the_papers() -> None:
    """Parameter counts, batch, rate, steps: Hu et al. 2021, tables 2 and 4, and section 4."""
    sizes = {"forcenet": (512, 5, 256, 11_363_624), "forcenet-large": (768, 7, 512, 34_810_408)}
    for name, (hidden, layers, batch, parameters) in sizes.items():
        config = load_config(name, ["data.train=x.h5"])
        model = ForceNet(ForceNetConfig(**config.model, energy_head=True))
        expected = ForceNetConfig.paper(hidden=hidden, n_layers=layers)
        assert model.config == expected
        assert sum(p.numel() for p in model.parameters()) == parameters
        training = config.training
        assert (training.batch, training.steps, training.learning_rate) == (batch, 500_000, 5e-4)
        assert (training.schedule, training.optimizer) == ("paper", "adam")
        assert (config.loss.kind, config.loss.fixed_weight) == ("l1", 0.05)
        assert (config.augmentation.rotations, config.augmentation.inversion) == ("z", False)


def test_the_model_of_a_start_stands_above_a_packaged_one(tmp_path: Path) -> None:
    given = ["data.train=x.extxyz", "training.initial=m.pt"]
    assert load_config("small", given).model == {}
    assert load_config("small", [*given, "model.hidden=9"]).model == {"hidden": 9}
    own = tmp_path / "own.yaml"
    own.write_text(yaml.safe_dump({"data": {"train": "x"}, "model": {"hidden": 7},
                                   "training": {"steps": 1, "initial": "m.pt"}}))  # fmt: skip
    assert load_config(own).model == {"hidden": 7}


def test_what_cannot_be_written_is_said_before_the_run(labelled: Path, tmp_path: Path) -> None:
    path = write_config(tmp_path, labelled)
    for override, sentence in (
        (f"folder={labelled}", rf"checkpoint\.pt cannot be written, because {labelled} is a file"),
        (f"output={labelled}/m.pt", rf"m\.pt cannot be written, because {labelled} is a file"),
        (f"output={tmp_path}", "is no ordinary file"),
        (f"output={labelled}", "would replace what the run reads"),
    ):
        with pytest.raises(DataError, match=sentence):
            check_outputs(load_config(path, [override]))
    watched = [f"output={tmp_path}/v.extxyz", f"data.validation={tmp_path}/v.extxyz"]
    with pytest.raises(DataError, match="would replace what the run reads"):
        check_outputs(load_config(path, watched))
    model = tmp_path / "mine.pt"
    model.write_bytes(b"of a week")
    mine = load_config(path, [f"output={model}"])
    with pytest.raises(DataError, match=r"mine\.pt is there already: give output=OTHER\.pt"):
        check_outputs(mine)
    assert model.read_bytes() == b"of a week"
    check_outputs(load_config(path, [f"output={tmp_path}/new/m.pt"]))
    assert list((tmp_path / "new").iterdir()) == []
    assert list((tmp_path / "run").iterdir()) == []


def test_schedules() -> None:
    """Against the paper's table of steps, and the cosine at its ends and middle."""
    paper = {0: 1.0, 249_999: 1.0, 250_000: 0.5, 299_999: 0.5, 300_000: 0.25, 350_000: 0.125,
             400_000: 2**-4, 450_000: 2**-5, 499_999: 2**-5}  # fmt: skip
    for step, factor in paper.items():
        assert learning_rate("paper", step / 500_000, 5e-4) == 5e-4 * factor
    assert learning_rate("cosine", 0.0, 1.0, 0.1) == 1.0
    assert learning_rate("cosine", 0.5, 1.0, 0.1) == pytest.approx(0.55)
    assert learning_rate("cosine", 1.0, 1.0, 0.1) == pytest.approx(0.1)
    assert learning_rate("constant", 0.7, 1.0, 0.1) == 1.0
    warm = [learning_rate("cosine", f, 1.0, 0.1, warmup=0.2) for f in (0.0, 0.1, 0.2, 0.6, 1.0)]
    assert warm == pytest.approx([0.01, 0.505, 1.0, 0.55, 0.1])
