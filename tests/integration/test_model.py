"""`splitbed model ...` as a person runs it: tables that fit, files that run, mistakes told."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from experiments.feeds import noise
from splitbed.engine import Engine
from splitbed.graph import canonicalise, load
from splitbed.runnable import carry
from tests import models
from tests.integration.nodes import GESTURE, one_sentence, splitbed
from tests.models import saved


def told(*arguments: object) -> str:
    done = splitbed(*arguments)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("inspect", GESTURE),
        ("cuts", GESTURE),
        ("cuts", "zoo:ssd300_resnet50", "--stages"),
        ("verify", GESTURE, "--stages"),
        ("zoo",),
        ("published",),
    ],
    ids=lambda arguments: " ".join(map(str, arguments[:1])),
)
def test_tables_fit_80_columns(arguments: tuple[object, ...]) -> None:
    lines = told("model", *arguments).splitlines()
    assert len(lines) > 5
    assert max(map(len, lines)) <= 80


def test_help_of_every_command_teaches() -> None:
    for command in ("inspect", "cuts", "cut", "verify", "zoo", "published"):
        text = told("model", command, "--help")
        assert f"usage: splitbed model {command}" in text
        assert max(map(len, text.splitlines())) <= 80


def test_cuts_are_listed_alike_for_people_and_machines() -> None:
    rows = json.loads(told("model", "cuts", GESTURE, "--json"))
    text = told("model", "cuts", GESTURE)
    assert rows[0]["cut"] == "@input"
    assert rows[-1]["cut"] == "@output"
    for row in rows:
        assert row["bytes"] == sum(
            int(np.prod(spec["shape"])) * np.dtype(spec["dtype"]).itemsize
            for spec in row["boundary"]
        )
        assert f"{row['bytes']:,}" in text
        assert row["branches"] == len(row["boundary"])
    table = list(csv.DictReader(io.StringIO(told("model", "cuts", GESTURE, "--csv"))))
    assert [line["cut"] for line in table] == [row["cut"] for row in rows]
    assert [int(line["head_macs"]) for line in table] == [row["head_macs"] for row in rows]
    assert [line["boundary"].count(";") + 1 for line in table] == [row["branches"] for row in rows]


def test_cuts_are_chosen_and_sorted() -> None:
    everything = json.loads(told("model", "cuts", GESTURE, "--json"))
    stages = json.loads(told("model", "cuts", GESTURE, "--json", "--stages"))
    assert stages == [row for row in everything if row["stage"]]
    best = json.loads(told("model", "cuts", GESTURE, "--json", "--best"))
    assert best == [row for row in everything if not row["dominated_by"]]
    sizes = [
        row["bytes"]
        for row in json.loads(told("model", "cuts", GESTURE, "--json", "--sort", "bytes"))
    ]
    assert sizes == sorted(sizes)
    layers = json.loads(told("model", "cuts", "zoo:posenet_mobilenet_v1_100", "--json", "--layers"))
    assert [row["layer"] for row in layers] == list(range(32))


@pytest.mark.parametrize(
    ("ending", "begins"), [("svg", b"<?xml"), ("png", b"\x89PNG"), ("pdf", b"%PDF")]
)
def test_picture_of_all_cuts(ending: str, begins: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"cuts.{ending}"
    told("model", "cuts", GESTURE, "--plot", path)
    content = path.read_bytes()
    assert content.startswith(begins)
    if ending == "svg":
        again = tmp_path / "again.svg"
        told("model", "cuts", GESTURE, "--plot", again)
        assert again.read_bytes() == content


def test_parts_are_verified_on_real_pictures_where_there_are_some(
    pictures: Path, tmp_path: Path
) -> None:
    text = told(
        *("model", "cut", GESTURE, "layer3", "--output", tmp_path / "out", "--images", pictures)
    )
    assert f"verified on 1 picture of {pictures}" in text


def test_parts_that_fail_to_verify_leave_earlier_ones(tmp_path: Path) -> None:
    path = saved(models.chain(), tmp_path / "chain.onnx")
    out = tmp_path / "out"
    told("model", "cut", path, "r", "--output", out)
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    proto = models.chain()
    proto.graph.node[1].op_type = "RandomNormalLike"
    drawn = saved(proto, tmp_path / "drawn.onnx")
    done = splitbed("model", "cut", drawn, "r", "--output", out, "--force")
    assert done.returncode == 3
    assert "--no-verify" in one_sentence(done.stderr)
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_parts_are_written_and_run(tmp_path: Path) -> None:
    text = told("model", "cut", GESTURE, "layer3", "--output", tmp_path)
    assert "verified on 1 draw of noise" in text
    about = json.loads((tmp_path / "cut.json").read_text())
    assert about["cut"]["name"] == "layer3"
    head, tail = (Engine(tmp_path / f"{name}.onnx", provider="cpu") for name in ("head", "tail"))
    whole = Engine(GESTURE, provider="cpu")
    specs = about["head"]["inputs"]
    rng = np.random.default_rng(0)
    feed = {spec["name"]: rng.standard_normal(spec["shape"]).astype(np.float32) for spec in specs}
    boundary = [spec["name"] for spec in about["cut"]["boundary"]]
    names = [spec["name"] for spec in about["tail"]["outputs"]]
    got = carry(tail, carry(head, feed, boundary), names)
    wanted = dict(zip(whole.outputs, whole.run(feed), strict=True))
    for name in names:
        np.testing.assert_allclose(got[name].astype(float), wanted[name].astype(float), atol=1e-5)


def test_folder_is_named_after_model_and_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told("model", "cut", GESTURE, "layer2")
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"{GESTURE.stem}_at_layer2"
    assert sorted(path.name for path in folder.iterdir()) == ["cut.json", "head.onnx", "tail.onnx"]


def test_nothing_is_replaced_unasked(tmp_path: Path) -> None:
    out = tmp_path / "out"
    told("model", "cut", GESTURE, "layer2", "--output", out)
    again = splitbed("model", "cut", GESTURE, "@input", "--output", out)
    assert again.returncode == 2
    assert "--force" in one_sentence(again.stderr)
    told("model", "cut", GESTURE, "@input", "--output", out, "--force")
    assert sorted(path.name for path in out.iterdir()) == ["cut.json", "tail.onnx"]
    own = tmp_path / "tail.onnx"
    own.write_bytes(GESTURE.read_bytes())
    for force in ([], ["--force"]):
        refused = splitbed("model", "cut", own, "layer2", "--output", tmp_path, *force)
        assert refused.returncode == 2
        assert own.read_bytes() == GESTURE.read_bytes()
    network = tmp_path / "mobilenet_v1.onnx"
    network.write_text("trained for a week")
    refused = splitbed("model", "zoo", "mobilenet_v1", "--output", network)
    assert refused.returncode == 2
    assert network.read_text() == "trained for a week"


def test_names_mean_nothing_to_the_terminal(tmp_path: Path) -> None:
    proto = models.chain()
    odd = "[/bold]a[red]\x1b[31m"
    proto.graph.node[0].output[0] = proto.graph.node[1].input[0] = odd
    path = saved(proto, tmp_path / "$odd$.onnx")
    for command in ("cuts", "verify", "inspect"):
        text = told("model", command, path)
        assert "\x1b" not in text
        assert command == "inspect" or "[/bold]a[red]\\x1b[31m" in text
    told("model", "cuts", path, "--plot", tmp_path / "odd.svg")


def test_output_that_cannot_be_written_is_told() -> None:
    for arguments in (("cuts", str(GESTURE)), ("published", "B2"), ("zoo",)):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "splitbed.cli", "model", *arguments],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert done.returncode == 6
        assert "No space left" in one_sentence(done.stderr)


def test_positions_that_cannot_be_cut_are_in_the_list_and_in_the_picture(tmp_path: Path) -> None:
    path = saved(models.data_dependent(), tmp_path / "data.onnx")
    assert "where: cannot be cut, dimension 1 of" in " ".join(told("model", "cuts", path).split())
    picture = tmp_path / "data.svg"
    told("model", "cuts", path, "--plot", picture)
    assert "cannot be cut" in picture.read_text()
    assert "cannot be cut" not in plotted(GESTURE, tmp_path)


def plotted(model: Path, folder: Path) -> str:
    told("model", "cuts", model, "--plot", folder / "other.svg")
    return (folder / "other.svg").read_text()


def test_noise_for_whole_numbers_is_not_all_the_same(tmp_path: Path) -> None:
    proto = models.model(
        [models.node("Cast", ["ids"], ["y"], to=1)],
        [models.info("ids", [1, 64], "int64")],
        [models.info("y", None)],
    )
    cleaned = canonicalise(load(saved(proto, tmp_path / "ids.onnx")))
    assert set(noise(cleaned, 1).arrays[0]["ids"].ravel().tolist()) == {0, 1}


def test_network_of_the_zoo_is_written(tmp_path: Path) -> None:
    path = tmp_path / "small.onnx"
    told("model", "zoo", "mobilenet_v1", "--output", path, "--batch", 2)
    onnx.checker.check_model(onnx.load(path))
    facts = json.loads(told("model", "inspect", path, "--json"))
    assert facts["inputs"][0]["shape"] == [2, 3, 224, 224]
    listed = {row["network"]: row for row in json.loads(told("model", "zoo", "--json"))}
    assert facts["parameters"] == listed["mobilenet_v1"]["parameters_folded"]


def test_verification_on_arrays_of_ones_own(tmp_path: Path) -> None:
    model = saved(models.two_ended(), tmp_path / "two.onnx")
    arrays = tmp_path / "in.npz"
    np.savez(arrays, a=np.full((1, 4), 0.5, np.float32), b=np.ones((1, 4), np.float32))
    rows = json.loads(told("model", "verify", model, "--arrays", arrays, "--json"))
    assert [row["cut"] for row in rows] == ["@input", "early", "m", "t", "@output"]
    assert all(row["proven"] and row["max_rel"] == 0 for row in rows)


def test_cut_that_is_not_proven_ends_with_an_error(tmp_path: Path) -> None:
    proto = models.chain()
    proto.graph.node[1].op_type = "RandomNormalLike"
    path = saved(proto, tmp_path / "drawn.onnx")
    done = splitbed("model", "verify", path)
    assert done.returncode == 3
    assert "r: not proven" in done.stdout
    sentence = one_sentence(done.stderr)
    assert "the difference starts at 'n' in the tail" in sentence


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("cuts", "zoo:resnet19"), 2, "resnet18"),
        (("cuts", "{tmp}/absent.onnx"), 2, "no model file"),
        (("cuts", "{tmp}/cycle.onnx"), 2, "node 'adder' reads 'b'"),
        (("inspect", "{tmp}/foreign.onnx"), 2, "node 'mystery' is a Thing of no.such"),
        (("cuts", "{tmp}/beside.onnx"), 2, "weights.bin"),
        (("cuts", "{tmp}/open.onnx"), 2, "--shape x="),
        (("cuts", "{tmp}/open.onnx", "--shape", "x=1x3"), 2, "does not bind to input 'x'"),
        (("cuts", "{tmp}/open.onnx", "--shape", "x=1xx"), 2, "write it as"),
        (("cuts", GESTURE, "--plot", "{tmp}/a.gif"), 2, ".svg"),
        (("cuts", GESTURE, "--plot", "{tmp}/no/a.svg"), 6, "cannot write"),
        (("cuts", GESTURE, "--sort", "colour"), 2, "--sort"),
        (("cut", GESTURE, "layer33"), 2, "layer3"),
        (("cut", GESTURE), 2, "needs CUT"),
        (("cut", GESTURE, "layer3", "--output", "/dev/null/x"), 6, "cannot write"),
        (("verify", GESTURE, "--arrays", "{tmp}/cycle.onnx"), 2, "no .npz file"),
        (("verify", GESTURE, "--provider", "cuda"), 3, "CUDAExecutionProvider"),
        (("verify", GESTURE, "--images", "{tmp}", "--arrays", "x"), 2, "not both"),
        (("zoo", "lenet"), 2, "no network 'lenet'"),
        (("zoo", "resnet18", "--output", "{tmp}/x.txt"), 2, ".onnx"),
        (("published", "Z9"), 2, "Z9"),
    ],
)
def test_one_sentence(arguments: tuple[object, ...], code: int, words: str, tmp_path: Path) -> None:
    info, node, model = models.info, models.node, models.model
    saved(
        model(
            [node("Add", ["x", "b"], ["a"], name="adder"), node("Relu", ["a"], ["b"])],
            [info("x", [1])],
            [info("b", [1])],
        ),
        tmp_path / "cycle.onnx",
    )
    foreign = model(
        [node("Thing", ["x"], ["y"], name="mystery", domain="no.such")],
        [info("x", [1])],
        [info("y", None)],
    )
    foreign.opset_import.append(onnx.helper.make_opsetid("no.such", 1))
    saved(foreign, tmp_path / "foreign.onnx")
    saved(
        model([node("Relu", ["x"], ["y"])], [info("x", [1, 3, "H"])], [info("y", None)]),
        tmp_path / "open.onnx",
    )
    onnx.save_model(
        models.residual(),
        str(tmp_path / "beside.onnx"),
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    (tmp_path / "weights.bin").unlink()
    words_of = [str(a).replace("{tmp}", str(tmp_path)) for a in arguments]
    done = splitbed("model", *words_of)
    assert done.returncode == code, done.stderr
    assert words in one_sentence(done.stderr)
