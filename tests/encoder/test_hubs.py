"""Fetching from both hubs with their real clients: what is fetched, what is used again, and what an error says.

A client reads the hub's address when it is imported, so each lives in a process of its own; one process serves all
tests of a client, as importing modelscope takes seconds. The cache is the process's own too: each test has its own
model on the hub.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import ROOT, Runner
from helpers.hub_server import HubServer
from helpers.logs import read_run

SIZE = 300_000
WEIGHTS = random.Random(0).randbytes(SIZE)  # random, so that no part of the file can stand in for another
JSON = {"config.json": b'{"architecture": "tiny"}', "processor/preprocessor_config.json": b'{"size": 32}'}
NOT_WANTED = {"README.md": b"A model.", "modeling_tiny.py": b"import os", "pytorch_model.bin": b"pickle"}
PLAIN = {**JSON, **NOT_WANTED, "model.safetensors": WEIGHTS}
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
Publish = Callable[..., str]
TOKENS = {"modelscope": "MODELSCOPE_API_TOKEN", "huggingface": "HF_TOKEN"}

# Reads one call a line and answers each with a line. The answers have their own descriptor: whatever the client
# prints goes to stderr and can't end up between them.
WORKER = """
import json, os, sys
answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)
from common.cli.options import ModelChoice
from common.encoder import checkpoints, hubs
from common.errors import UserError
for line in sys.stdin:
    call = json.loads(line)
    try:
        if call["do"] == "fetch":
            path = hubs.fetch_snapshot(**call["with"])
            answer = {"path": str(path), "recorded": checkpoints.recorded_name(path)}
        elif call["do"] == "load":
            from common.encoder import loading
            encoder = loading.load_encoder(ModelChoice(**call["with"]))
            names = ("model", "library", "weights_source", "weights_sha256")
            answer = {name: getattr(encoder, name) for name in names}
            answer["preprocessing"] = encoder.preprocessing["source"]
        else:
            answer = {"path": str(hubs._snapshot_download(**call["with"], local_files_only=False))}
    except UserError as error:
        answer = {"error": str(error)}
    print(json.dumps(answer), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Fetched:
    """What a call came to: the snapshot's folder, or the text of its UserError."""

    path: Path | None
    error: str = ""
    recorded: str = ""

    @property
    def files(self) -> dict[str, bytes]:
        """The folder's files, and what is in them."""
        assert self.path is not None, self.error
        files = (path for path in self.path.rglob("*") if path.is_file())
        return {path.relative_to(self.path).as_posix(): path.read_bytes() for path in files}

    @property
    def refusal(self) -> str:
        """The error, which is one line."""
        assert self.path is None, f"fetched {sorted(self.files)}"
        assert len(self.error.splitlines()) == 1, self.error
        return self.error


class Client:
    """A process that fetches from one hub, and the hub."""

    def __init__(self, name: str, hub: HubServer, environment: Mapping[str, str]) -> None:
        self.name = name
        self.hub = hub
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORKER],
            env={**os.environ, **environment, "PYTHONPATH": with_python_path(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()

    def fetch(self, model: str, revision: str | None = None, with_weights: bool = True) -> Fetched:
        call = {"model": model, "hub": self.name, "revision": revision, "with_weights": with_weights}
        answer = self._ask("fetch", call)
        if "path" not in answer:
            return Fetched(None, answer["error"])
        return Fetched(Path(answer["path"]), recorded=answer["recorded"])

    def load(self, model: str, **choice: str | None) -> dict[str, str]:
        """What is recorded of the encoder, or its `error`."""
        prefixed = model.startswith("hf")  # which names its hub
        return self._ask("load", {"model": model, "hub": None if prefixed else self.name, **choice})

    def download(self, model: str, *names: str) -> None:
        """Fetch these files alone, as another program would."""
        self._ask("download", {"model": model, "hub": self.name, "revision": None, "patterns": names})

    def _ask(self, do: str, arguments: Mapping[str, object]) -> dict[str, str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, "with": arguments}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, f"{self.name}: an error that is no UserError ended the process"
        answer: dict[str, str] = json.loads(line)
        return answer


def with_python_path(folder: Path) -> str:
    """PYTHONPATH with one more folder in front."""
    return os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))


@pytest.fixture(scope="module", params=["modelscope", "huggingface"])
def running_client(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    cache = tmp_path_factory.mktemp(request.param)
    with HubServer({}) as hub, Client(request.param, hub, hub.environment(cache)) as client:
        yield client


@pytest.fixture
def client(running_client: Client) -> Iterator[Client]:
    running_client.hub.forget()
    yield running_client
    running_client.hub.recover()
    running_client.hub.start()


@pytest.fixture
def publish(client: Client, tmp_path: Path) -> Publish:
    """Put files on the hub, as a model of this test's own, and return its id."""
    model = f"someone/{tmp_path.name}"

    def add(files: Mapping[str, bytes], revision: str = "") -> str:
        folder = tmp_path / "published" / (revision or "default")
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        client.hub.add(f"{model}@{revision}" if revision else model, folder)
        return model

    return add


def index_of(*names: str) -> dict[str, bytes]:
    """An index file that names these shards, the first of them for two tensors."""
    weight_map = {f"tensor{number}": name for number, name in enumerate([*names, *names[:1]])}
    return {"model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode()}


def contents(folder: Path, **changes: object) -> dict[str, bytes]:
    """A checkpoint's files, its config with some changes."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads(files["config.json"])
    return {**files, "config.json": json.dumps({**config, **changes}).encode()}


# ------------------------------------------------------------------------------------------------ what is fetched
def test_only_json_and_safetensors_are_fetched(client: Client, publish: Publish) -> None:
    wanted = {**JSON, "model.safetensors": WEIGHTS}
    assert client.fetch(publish(PLAIN)).files == wanted
    assert sorted(client.hub.downloads) == sorted(wanted)


def test_the_json_files_come_before_the_weights(client: Client, publish: Publish) -> None:
    client.fetch(publish(PLAIN))
    assert client.hub.downloads[-1] == "model.safetensors"
    assert len(client.hub.downloads) == len(JSON) + 1


def test_without_weights_only_json_is_fetched(client: Client, publish: Publish) -> None:
    assert client.fetch(publish(PLAIN), with_weights=False).files == JSON
    assert sorted(client.hub.downloads) == sorted(JSON)


def test_the_weights_follow_when_they_are_wanted_later(client: Client, publish: Publish) -> None:
    model = publish(PLAIN)
    client.fetch(model, with_weights=False)
    client.hub.forget()
    assert client.fetch(model).files["model.safetensors"] == WEIGHTS
    assert client.hub.downloads == ["model.safetensors"]


def test_no_variant_of_the_weights_is_fetched(client: Client, publish: Publish) -> None:
    variants = ("model.fp16.safetensors", "open_clip_model.safetensors", "onnx/model.safetensors")
    fetched = client.fetch(publish({**PLAIN, **dict.fromkeys(variants, b"variant")}))
    assert fetched.files == {**JSON, "model.safetensors": WEIGHTS}
    assert not set(variants) & set(client.hub.downloads)


def test_exactly_the_shards_of_the_index_are_fetched(client: Client, publish: Publish) -> None:
    shards = {name: name.encode() for name in SHARDS}
    duplicates = (
        "open_clip_model.safetensors",
        "model.fp16-00001-of-00002.safetensors",
        "model-00003-of-00003.safetensors",
    )
    index = index_of(*SHARDS)
    fetched = client.fetch(publish({**JSON, **NOT_WANTED, **index, **shards, **dict.fromkeys(duplicates, b"no")}))
    assert fetched.files == {**JSON, **index, **shards}
    assert sorted(client.hub.downloads[-2:]) == sorted(SHARDS)
    assert sorted(client.hub.downloads) == sorted({**JSON, **index, **shards})


def test_a_stale_index_leads_to_no_shard(client: Client, publish: Publish) -> None:
    """As the folder itself would be read: the whole file alone."""
    fetched = client.fetch(publish({**PLAIN, **index_of(*SHARDS), SHARDS[0]: b"of an earlier day"}))
    assert fetched.files["model.safetensors"] == WEIGHTS
    assert SHARDS[0] not in client.hub.downloads


BIN_SHARDS = ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin")
BIN_INDEX = {
    "pytorch_model.bin.index.json": json.dumps({"weight_map": dict(zip("ab", BIN_SHARDS, strict=True))}).encode()
}
TRAINING = dict.fromkeys(("training_args.bin", "optimizer.pt", "tf_model.h5", "onnx/model.onnx"), b"no weights")
OF_PICKLES: dict[str, tuple[dict[str, bytes], set[str]]] = {
    "alone": ({"pytorch_model.bin": WEIGHTS}, {"pytorch_model.bin"}),
    "of another name": ({"dino_vitbase8_pretrain.pth": WEIGHTS}, {"dino_vitbase8_pretrain.pth"}),
    "shards": ({**BIN_INDEX, BIN_SHARDS[0]: WEIGHTS, BIN_SHARDS[1]: b"the second"}, {*BIN_INDEX, *BIN_SHARDS}),
    "a stale index": ({**BIN_INDEX, "pytorch_model.bin": WEIGHTS}, {*BIN_INDEX, "pytorch_model.bin"}),
    "a name of odd characters": ({"vit [ema]*.pth": WEIGHTS, "vit e.txt": b""}, {"vit [ema]*.pth"}),
}


@pytest.mark.parametrize(("files", "wanted"), OF_PICKLES.values(), ids=OF_PICKLES)
def test_a_pickle_is_fetched_where_there_are_no_safetensors(
    client: Client, publish: Publish, files: dict[str, bytes], wanted: set[str]
) -> None:
    model = publish({**JSON, **TRAINING, **files})
    fetched = client.fetch(model)
    assert set(fetched.files) == {*JSON, *wanted}
    assert set(client.hub.downloads) == {*JSON, *wanted}
    client.hub.forget()
    assert client.fetch(model).files == fetched.files
    assert client.hub.requests == []


CANT_BE_TOLD = {
    "several": (
        {"a.safetensors": WEIGHTS, "b.safetensors": WEIGHTS},
        "2 files of weights (a.safetensors, b.safetensors)",
    ),
    "several pickles": ({"a.pth": WEIGHTS, "b.pth": WEIGHTS}, "2 files of weights (a.pth, b.pth)"),
    "none": ({}, "no weights in safetensors or PyTorch's format"),
    "shards without their index": ({SHARDS[0]: WEIGHTS, SHARDS[1]: WEIGHTS}, "but no index of the shards"),
}


@pytest.mark.parametrize(("files", "told"), CANT_BE_TOLD.values(), ids=CANT_BE_TOLD)
def test_no_weights_are_fetched_where_it_can_t_be_told_which(
    client: Client, publish: Publish, files: dict[str, bytes], told: str
) -> None:
    model = publish({**JSON, **TRAINING, **files})
    refusal = client.fetch(model).refusal
    assert told in refusal
    assert f"{model} on {client.name} has " in refusal
    assert set(client.hub.downloads) == set(JSON)


def test_the_folder_in_the_cache_is_recorded_by_its_id(client: Client, publish: Publish) -> None:
    model = publish(PLAIN)
    assert client.fetch(model).recorded == model
    client.hub.add("someone/tiny.v1_in1k", client.hub._repositories[model].folders[""])
    assert client.fetch("someone/tiny.v1_in1k").recorded == "someone/tiny.v1_in1k"


def test_weights_of_another_name_are_fetched(client: Client, publish: Publish) -> None:
    files = {**JSON, "tiny.safetensors": WEIGHTS}
    assert client.fetch(publish({**files, **NOT_WANTED})).files == files


def test_a_shard_that_the_index_names_and_the_hub_lacks_is_named(client: Client, publish: Publish) -> None:
    model = publish({**JSON, **index_of(*SHARDS), SHARDS[0]: b"the first alone"})
    assert f"lacks {SHARDS[1]}, a shard that its model.safetensors.index.json names" in client.fetch(model).refusal


# ---------------------------------------------------------------------------------------- what is not fetched again
@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "shards"])
def test_a_second_call_makes_no_request(client: Client, publish: Publish, sharded: bool) -> None:
    shards = {**index_of(*SHARDS), **{name: name.encode() for name in SHARDS}}
    model = publish({**JSON, **NOT_WANTED, **shards} if sharded else PLAIN)
    first = client.fetch(model)
    client.hub.forget()
    second = client.fetch(model)
    assert second.files == first.files
    assert client.hub.requests == []


def test_a_second_call_without_weights_makes_no_request(client: Client, publish: Publish) -> None:
    model = publish(PLAIN)
    client.fetch(model, with_weights=False)
    client.hub.forget()
    assert client.fetch(model, with_weights=False).files == JSON
    assert client.hub.requests == []


def test_a_snapshot_that_lost_its_config_is_fetched_again(client: Client, publish: Publish) -> None:
    model = publish(PLAIN)
    first = client.fetch(model)
    assert first.path is not None
    (first.path / "config.json").unlink()
    assert client.fetch(model).files == {**JSON, "model.safetensors": WEIGHTS}


def test_a_complete_snapshot_needs_no_hub(client: Client, publish: Publish) -> None:
    model = publish(PLAIN)
    first = client.fetch(model)
    client.hub.stop()
    assert client.fetch(model).files == first.files


def test_a_complete_snapshot_is_used_offline(tmp_path: Path) -> None:
    """HF_HUB_OFFLINE is read when the client is imported, so each of its settings is a process."""
    folder = tmp_path / "published"
    folder.mkdir()
    for name in ("config.json", "README.md", "model.safetensors"):
        (folder / name).write_bytes(PLAIN[name])
    with HubServer({"someone/tiny": folder}) as hub:
        environment = hub.environment(tmp_path / "cache")
        with Client("huggingface", hub, environment) as online:
            first = online.fetch("someone/tiny")
        hub.forget()
        with Client("huggingface", hub, {**environment, "HF_HUB_OFFLINE": "1"}) as offline:
            assert offline.fetch("someone/tiny").files == first.files
            assert "offline" in offline.fetch("someone/other").refusal
        assert hub.requests == []


# --------------------------------------------------------------------------------------------------- broken downloads
@pytest.mark.parametrize("short", [False, True], ids=["connection closed", "short body"])
def test_a_truncated_weight_file_is_an_error(client: Client, publish: Publish, short: bool) -> None:
    model = publish(PLAIN)
    client.hub.truncate("model.safetensors", SIZE // 3, short=short)
    refusal = client.fetch(model).refusal
    assert model in refusal
    assert client.hub.url in refusal


def test_the_call_after_a_truncated_one_gives_the_right_bytes(client: Client, publish: Publish) -> None:
    model = publish(PLAIN)
    client.hub.truncate("model.safetensors", SIZE // 3, short=True)
    assert client.fetch(model).refusal
    client.hub.recover()
    client.hub.forget()
    assert client.fetch(model).files == {**JSON, "model.safetensors": WEIGHTS}
    assert client.hub.downloads == ["model.safetensors"]


def test_the_call_after_a_truncated_shard_fetches_that_one_only(client: Client, publish: Publish) -> None:
    model = publish({**JSON, **index_of(*SHARDS), SHARDS[0]: b"first shard", SHARDS[1]: WEIGHTS})
    client.hub.truncate(SHARDS[1], SIZE // 3, short=True)
    assert client.fetch(model).refusal
    client.hub.recover()
    client.hub.forget()
    assert client.fetch(model).files[SHARDS[1]] == WEIGHTS
    assert client.hub.downloads == [SHARDS[1]]


# ---------------------------------------------------------------------------------------------------------- revisions
def publish_two_revisions(publish: Publish) -> str:
    publish({**PLAIN, "model.safetensors": b"older weights"}, revision="v1.0")
    return publish(PLAIN)


def test_the_revision_reaches_the_hub(client: Client, publish: Publish) -> None:
    model = publish_two_revisions(publish)
    assert client.fetch(model, "v1.0").files["model.safetensors"] == b"older weights"
    assert "v1.0" in client.hub.requests[0][1]


def test_a_commit_is_a_revision(client: Client, publish: Publish) -> None:
    model = publish_two_revisions(publish)
    commit = client.hub.commit(f"{model}@v1.0")
    assert client.fetch(model, commit).files["model.safetensors"] == b"older weights"
    assert {transfer.revision for transfer in client.hub.transfers} == {commit}


@pytest.mark.parametrize("first", [None, "v1.0"], ids=["default first", "v1.0 first"])
def test_a_cached_revision_does_not_answer_for_another(client: Client, publish: Publish, first: str | None) -> None:
    model = publish_two_revisions(publish)
    expected = {None: WEIGHTS, "v1.0": b"older weights"}
    second = "v1.0" if first is None else None
    assert client.fetch(model, first).files["model.safetensors"] == expected[first]
    assert client.fetch(model, second).files["model.safetensors"] == expected[second]


@pytest.mark.parametrize("cached", [False, True], ids=["nothing cached", "default cached"])
def test_an_unknown_revision_is_refused(client: Client, publish: Publish, cached: bool) -> None:
    model = publish_two_revisions(publish)
    if cached:
        client.fetch(model)
    client.hub.forget()
    assert "no such model or revision" in client.fetch(model, "v9").refusal
    assert client.hub.downloads == []


# ---------------------------------------------------------------------------------------------------- ways to be wrong
def test_an_unknown_repository_is_refused(client: Client) -> None:
    refusal = client.fetch("someone/nothing").refusal
    assert "someone/nothing" in refusal
    assert "no such model" in refusal


@pytest.mark.parametrize("files_only", [False, True], ids=["hidden", "listed"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_repository_names_the_token(client: Client, publish: Publish, status: int, files_only: bool) -> None:
    model = publish(PLAIN)
    client.hub.refuse(status, files_only=files_only)
    assert TOKENS[client.name] in client.fetch(model).refusal


def test_an_unreachable_hub_is_named_with_what_was_tried(client: Client, publish: Publish) -> None:
    model = publish(PLAIN)
    client.hub.stop()
    refusal = client.fetch(model).refusal
    assert client.name in refusal
    assert client.hub.url in refusal
    assert model in refusal
    assert "Connection refused" in refusal


def test_a_hub_that_is_out_of_order_is_no_unknown_model(client: Client, publish: Publish) -> None:
    model = publish(PLAIN)
    client.hub.refuse(500)
    refusal = client.fetch(model).refusal
    assert "500" in refusal
    assert "no such model" not in refusal


NO_INDEX = {
    "names a file outside": b'{"weight_map": {"a": "../outside.safetensors"}}',
    "names an absolute path": b'{"weight_map": {"a": "/outside.safetensors"}}',
    "names a file in a folder": b'{"weight_map": {"a": "folder/model.safetensors"}}',
    "names a pickle": b'{"weight_map": {"a": "pytorch_model.bin"}}',
    "names a number": b'{"weight_map": {"a": 1}}',
    "names nothing": b'{"weight_map": {}}',
    "has no weight_map": b'{"metadata": {}}',
    "is a list": b"[]",
    "is cut": b'{"weight_map": {"a": "mod',
    "is no text": b"\xff\xfe\x00",
}


@pytest.mark.parametrize("index", NO_INDEX.values(), ids=NO_INDEX)
def test_an_index_of_no_shards_is_refused(client: Client, publish: Publish, index: bytes) -> None:
    model = publish({**JSON, "model.safetensors.index.json": index})
    assert "model.safetensors.index.json" in client.fetch(model).refusal
    assert sorted(client.hub.downloads) == sorted([*JSON, "model.safetensors.index.json"])


# ------------------------------------------------------------------------- whose it is, and whether it can be used
@pytest.mark.parametrize(("prefix", "hub"), [("", None), ("hf-hub:", "huggingface"), ("hf_hub:", "huggingface")])
@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_the_library_is_the_configs_under_any_owner(
    library: str, prefix: str, hub: str | None, client: Client, publish: Publish, request: pytest.FixtureRequest
) -> None:
    if hub not in (None, client.name):
        pytest.skip("the prefix is of the other hub")
    folder = request.getfixturevalue("tiny_timm" if library == "timm" else "tiny_vit")
    model = publish(contents(folder))
    found = client.load(prefix + model)
    assert (found["model"], found["library"], found["weights_source"]) == (model, library, model)
    assert found["weights_sha256"] == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    names = sorted(path.name for path in folder.iterdir())
    assert sorted(client.hub.downloads) == names
    assert client.hub.downloads[-1] == "model.safetensors"


def test_a_prefixed_id_may_name_its_revision(client: Client, publish: Publish, tiny_timm: Path) -> None:
    model = publish(contents(tiny_timm), revision="v1.0")
    found = client.load(f"hf-hub:{model}@v1.0", hub=client.name)
    assert (found["model"], found["library"]) == (model, "timm")
    assert "no such model or revision" in client.load(f"hf-hub:{model}@v2.0", hub=client.name)["error"]


def test_an_id_as_modelscopes_cache_writes_it_is_that_of_the_hub(
    client: Client, publish: Publish, tiny_timm: Path
) -> None:
    client.hub.add("timm/test_vit.r160_in1k", tiny_timm)
    for text in ("timm/test_vit___r160_in1k", "timm/test_vit.r160_in1k"):
        found = client.load(text)
        assert (found["model"], found["weights_source"]) == ("timm/test_vit.r160_in1k",) * 2


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_repository_of_a_pickle_alone_is_loaded(
    library: str, client: Client, publish: Publish, request: pytest.FixtureRequest
) -> None:
    files = contents(request.getfixturevalue("tiny_timm" if library == "timm" else "tiny_vit"))
    buffer = io.BytesIO()
    torch.save(safetensors.torch.load(files.pop("model.safetensors")), buffer)
    found = client.load(publish({**files, **TRAINING, "pytorch_model.bin": buffer.getvalue()}))
    assert found["weights_sha256"] == hashlib.sha256(buffer.getvalue()).hexdigest()
    assert set(client.hub.downloads) == {*files, "pytorch_model.bin"}


BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, "vocab_size": 9}
GREY = {"input_size": [1, 160, 160], "fixed_input_size": True}
UNUSABLE: dict[str, tuple[dict[str, bytes], str]] = {
    "no config": ({"README.md": b"weights"}, "has no config.json"),
    "OpenCLIP's": ({"open_clip_config.json": b"{}"}, "it has ['open_clip_config.json']"),
    "no library": ({"config.json": b"{}"}, "names neither a timm architecture nor a transformers model_type"),
    "diffusers'": ({"config.json": b'{"_class_name": "UNet2DModel"}'}, "names neither a timm architecture"),
    "no JSON": ({"config.json": b"<html>"}, "is a page of HTML or XML"),
    "a list": ({"config.json": b"[]"}, "holds no JSON object"),
    "an unknown type": ({"config.json": b'{"model_type": "evaclip"}'}, "evaclip"),
    "code on the hub": ({"config.json": b'{"model_type": "x", "auto_map": {"AutoModel": "x.X"}}'}, "is never run"),
    "an unknown architecture": ({"config.json": b'{"architecture": "vit_of_tomorrow"}'}, "Unknown model"),
    "grey images": (
        {
            "config.json": json.dumps(
                {"architecture": "test_vit", "pretrained_cfg": GREY, "model_args": {"in_chans": 1}}
            ).encode()
        },
        "takes images of 1 channels",
    ),
    "text": ({"config.json": json.dumps({"model_type": "bert", **BERT}).encode()}, "is no vision encoder"),
    "a decoder": ({"config.json": b'{"model_type": "pix2struct"}'}, "is no encoder: it decodes too"),
    "depth": ({"config.json": b'{"model_type": "dpt"}'}, "is no encoder"),
    "videos": ({"config.json": b'{"model_type": "videomae"}'}, "takes videos"),
    "an unknown preprocessing": (
        {
            "config.json": b'{"model_type": "vit", "hidden_size": 12, "num_hidden_layers": 1}',
            "preprocessor_config.json": b'{"image_processor_type": "OwnImageProcessor"}',
        },
        "OwnImageProcessor",
    ),
}


@pytest.mark.parametrize(("files", "told"), UNUSABLE.values(), ids=UNUSABLE)
def test_what_can_t_be_used_is_refused_before_its_weights_are_fetched(
    client: Client, publish: Publish, files: dict[str, bytes], told: str
) -> None:
    model = publish({**files, "model.safetensors": WEIGHTS, "pytorch_model.bin": WEIGHTS})
    error = client.load(model)["error"]
    assert told in error
    assert len(error.splitlines()) == 1
    assert [name for name in client.hub.downloads if not name.endswith(".json")] == []


def test_random_weights_need_the_json_files_alone(client: Client, publish: Publish, tiny_timm: Path) -> None:
    found = client.load(publish(contents(tiny_timm)), weights="random")
    assert (found["library"], found["weights_source"]) == ("timm", "random")
    assert client.hub.downloads == ["config.json"]


def test_a_preprocessing_that_another_program_left_out_is_fetched(
    client: Client, publish: Publish, tiny_vit: Path
) -> None:
    """As transformers' AutoModel does: the cache has the model, and the hub more than that."""
    model = publish(contents(tiny_vit))
    client.download(model, "config.json", "model.safetensors")
    client.hub.forget()
    assert client.load(model)["preprocessing"] == "preprocessor_config.json"
    assert client.hub.downloads == ["preprocessor_config.json"]


def test_without_the_hub_such_a_cache_is_used_as_it_is(client: Client, publish: Publish, tiny_vit: Path) -> None:
    model = publish(contents(tiny_vit))
    client.download(model, "config.json", "model.safetensors")
    client.hub.stop()
    assert client.load(model)["preprocessing"].startswith("default: ")


# ---------------------------------------------------------------------------------------------------- the real script
MODELS = [
    ("modelscope", "timm/test_vit", "tiny_timm"),
    ("huggingface", "someone/tiny", "tiny_vit"),
    ("huggingface", "someone/pathology-vit", "tiny_timm"),
]
ROUTES = {"modelscope": "/api/v1/", "huggingface": "/api/models/"}


@pytest.mark.parametrize(("name", "model", "checkpoint"), MODELS)
def test_inference_fetches_from_the_models_own_hub(
    name: str, model: str, checkpoint: str, run_script: Runner, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    with HubServer({model: request.getfixturevalue(checkpoint)}) as hub:
        finished = run_script(
            "inference.py", "--model", model, "--device", "cpu", env=hub.environment(tmp_path / "hub")
        )
        assert finished.code == 0, finished.stderr
        assert "Output shape: [1, " in finished.stdout
        assert hub.requests[0][1].startswith(ROUTES[name])
        assert hub.downloads[-1] == "model.safetensors"
    run = read_run(tmp_path / "logs" / "inference.log")
    assert run.problems == []
    assert run.events("model")[0]["weights_source"] == model


@pytest.mark.parametrize(("name", "model", "_checkpoint"), MODELS[:2])  # a hub each
def test_inference_without_a_hub_says_what_works_without_one(
    name: str, model: str, _checkpoint: str, run_script: Runner, tmp_path: Path
) -> None:
    with HubServer({}) as hub:
        environment = hub.environment(tmp_path / "hub")  # its address remains, but nobody listens there any more
    finished = run_script("inference.py", "--model", model, "--device", "cpu", env=environment)
    assert finished.code == 2
    (line,) = finished.stderr.splitlines()
    assert line.startswith("error: ")
    for named in (model, name, hub.url, "--weights", "--model demo"):
        assert named in line
