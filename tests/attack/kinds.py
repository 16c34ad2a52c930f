"""What is attacked: each kind makes a mutant from a seed, opens it, and knows what the whole one gives."""

from __future__ import annotations

import hashlib
import itertools
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from mutants import change_bytes, change_gently, change_tree

import edgekit
from edgekit.errors import BundleError
from edgekit.runtimes.bundle import manifest_file as manifests
from edgekit.runtimes.bundle.folder import sha256
from edgekit.runtimes.bundle.manifest import MANIFEST

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
OLD = HERE.parent / "old_bundles"
ISOLATED_SECONDS = 4.0
"""That an isolated bundle may take to open, and to run."""


@dataclass(frozen=True)
class Made:
    """What was made of which whole one. ``sealed``: any other result than that of the whole one is silently wrong."""

    base: str
    did: str
    sealed: bool = False


class Kind:
    """Something that a stranger may hand us."""

    def prepare(self, folder: Path) -> None:
        """Import, and make the whole ones in a folder that stays."""
        self.folder = folder
        self._whole: dict[str, Any] = {}

    def make(self, random: Random, place: Path) -> Made:
        """Write a mutant into a folder."""
        raise NotImplementedError

    def take(self, kept: Path, place: Path) -> Made:
        """Put a file of the corpus into a folder."""
        raise NotImplementedError

    def open(self, place: Path, *, isolated: bool = False) -> Any:
        """What it gives."""
        raise NotImplementedError

    def put(self, base: str, place: Path) -> None:
        """Put a whole one into a folder."""
        raise NotImplementedError

    def whole(self, base: str) -> Any:
        """What the whole one gives."""
        if base not in self._whole:
            place = self.folder / f"whole-{base}"
            place.mkdir()
            self.put(base, place)
            self._whole[base] = self.open(place)
        return self._whole[base]


def digest(*arrays: Any) -> str:
    """Of what was found."""
    total = hashlib.sha256()
    for array in arrays:
        total.update(np.ascontiguousarray(array).tobytes() if isinstance(array, np.ndarray) else repr(array).encode())
    return total.hexdigest()[:16]


# ---- bundles ----


class BundleKind(Kind):
    """A bundle of one engine. Half of the mutants are signed again, as an attacker would."""

    origin = OLD / "detector-onnx-int8"

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        from tiny_models import picture

        self.image = picture(0)
        self.whole(self.origin.name)

    def put(self, base: str, place: Path) -> None:
        shutil.copytree(self.origin, place / "bundle")

    def make(self, random: Random, place: Path) -> Made:
        self.put(self.origin.name, place)
        bundle = place / "bundle"
        signed = random.random() < 0.6
        if random.random() < 0.4:
            document, did = change_tree(json.loads((bundle / MANIFEST).read_bytes()), random)
            (bundle / MANIFEST).write_text(json.dumps(document, ensure_ascii=random.random() < 0.5), "utf-8")
        else:
            did = self.change_file(bundle, random)
        if signed:
            sign(bundle)
        return Made(self.origin.name, f"{did}{', signed again' if signed else ''}", sealed=not signed)

    def change_file(self, bundle: Path, random: Random) -> str:
        """Change one of the files: its bytes, or what is in its place."""
        files = sorted(path for path in bundle.rglob("*") if path.is_file())
        file = random.choice([path for path in files if path.name != MANIFEST] * 4 + [bundle / MANIFEST])
        what = random.random()
        if what < 0.86:
            change = change_gently if random.random() < 0.7 else change_bytes
            data, did = change(file.read_bytes(), random)
            file.write_bytes(data)
        elif what < 0.9:
            other = random.choice([path for path in OLD.rglob("*") if path.is_file()] + files)
            file.write_bytes(other.read_bytes())
            did = f"is {other.name}"
        elif what < 0.93:
            file.write_bytes(bytes(file.stat().st_size))
            did = "is all zeros"
        else:
            file.unlink()
            to = random.choice((None, "/etc/passwd", "/dev/zero", MANIFEST, file.name, str(OLD / "image.png")))
            if to:
                file.symlink_to(to)
            did = f"is a link to {to}" if to else "is gone"
        return f"{file.name}: {did}"

    def take(self, kept: Path, place: Path) -> Made:
        """A file of the corpus says which bytes of a file are other ones, and which nodes of one of JSON."""
        self.put(self.origin.name, place)
        bundle, told = place / "bundle", json.loads(kept.read_bytes())
        for name, changes in told.get("bytes", {}).items():
            data = bytearray((bundle / name).read_bytes())
            for where, value in changes.items():
                data[int(where)] = value
            (bundle / name).write_bytes(data)
        set_nodes(bundle, told.get("nodes", {}))
        sign(bundle)
        return Made(self.origin.name, told["said"])

    def open(self, place: Path, *, isolated: bool = False) -> Any:
        given: dict[str, Any] = {"isolated": True, "timeout": ISOLATED_SECONDS} if isolated else {}
        return self.result(edgekit.load(place / "bundle", threads=1, **given))

    def result(self, model: Any) -> Any:
        """What it finds in an image."""
        found = model(self.image)
        return digest(found.boxes, found.scores, found.class_ids, model.contract.classes)


def set_nodes(folder: Path, nodes: dict[str, dict[str, Any]]) -> None:
    """Set nodes of files of JSON, by the names of the files and the ways to the nodes (``graphs/0/inputs``)."""
    for name, changes in nodes.items():
        document = json.loads((folder / name).read_bytes())
        for where, value in changes.items():
            parent, (*way, last) = document, [int(key) if key.isdigit() else key for key in where.split("/")]
            for key in way:
                parent = parent[key]
            parent[last] = value
        (folder / name).write_text(json.dumps(document), "utf-8")


def sign(bundle: Path) -> None:
    """Bring sizes, hashes and the digest of a manifest in line with what is there, as far as it can be read."""
    if (bundle / MANIFEST).is_symlink() or not (bundle / MANIFEST).exists():
        return
    document: Any = None
    try:
        document = json.loads((bundle / MANIFEST).read_bytes())
        for entry in document["files"]:
            path = bundle / entry["path"]
            if path.is_file() and not path.is_symlink():
                entry["bytes"], entry["sha256"] = path.stat().st_size, sha256(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        pass
    try:
        document["digest"] = manifests.digest(document)
        (bundle / MANIFEST).write_text(json.dumps(document), "utf-8")
    except Exception:  # noqa: BLE001 - what no digest can be computed of stays as it is
        return


class Onnx(BundleKind):
    """Of ONNX Runtime; some mutants are changed node by node."""

    def change_file(self, bundle: Path, random: Random) -> str:
        if random.random() < 0.5:
            return super().change_file(bundle, random)
        return change_onnx(bundle / "model.onnx", random)


def change_onnx(path: Path, random: Random) -> str:
    """Change an ONNX file as a tree of messages."""
    import onnx
    from google.protobuf import json_format  # type: ignore[import-untyped]

    model = onnx.load(path)
    tree, did = change_tree(json_format.MessageToDict(model, preserving_proto_field_name=True), random)
    try:
        path.write_bytes(json_format.ParseDict(tree, onnx.ModelProto()).SerializeToString())
    except Exception:  # noqa: BLE001 - what is no message is no ONNX file: change its bytes
        data, did = change_bytes(path.read_bytes(), random)
        path.write_bytes(data)
    return f"{path.name}: {did}"


class Litert(BundleKind):
    """Of LiteRT."""

    origin = OLD / "detector-litert-int8"


class Ncnn(BundleKind):
    """Of ncnn."""

    origin = OLD / "detector-ncnn-int8"


class Openvino(BundleKind):
    """Of OpenVINO."""

    origin = OLD / "detector-openvino-fp32"


class Mnn(BundleKind):
    """Of MNN."""

    origin = HERE / "detector-mnn-int8"


class Blip2(BundleKind):
    """A BLIP-2 of ONNX files, with a tokenizer and embeddings."""

    origin = OLD / "opt-onnx-int8"

    def change_file(self, bundle: Path, random: Random) -> str:
        if random.random() < 0.2:
            path = bundle / "tokenizer.json"
            tree, did = change_tree(json.loads(path.read_bytes()), random)
            path.write_text(json.dumps(tree), "utf-8")
            return f"tokenizer.json: {did}"
        if random.random() < 0.3:
            return change_onnx(bundle / random.choice(("vision.onnx", "qformer.onnx", "language.onnx")), random)
        return super().change_file(bundle, random)

    def result(self, model: Any) -> Any:
        answer = model.ask(self.image, "what is it?", max_new_tokens=4)
        return digest(model.caption(self.image, max_new_tokens=6).text, answer.text, answer.tokens)


# ---- images, stacks, lists and videos ----


class Images(Kind):
    """Image files of every format that is written here."""

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        from hostile_images import WRITTEN

        self.bases = {name: write() for name, write in WRITTEN.items()}

    def put(self, base: str, place: Path) -> None:
        (place / "image").write_bytes(self.bases[base])

    def make(self, random: Random, place: Path) -> Made:
        base = random.choice(sorted(self.bases))
        data, did = change_bytes(self.bases[base], random)
        (place / "image").write_bytes(data)
        return Made(base, f"{base}: {did}")

    def take(self, kept: Path, place: Path) -> Made:
        shutil.copy(kept, place / "image")
        return Made(".png", kept.name)

    def open(self, place: Path, *, isolated: bool = False) -> Any:
        from edgekit.runtimes.inputs import MOST_PIXELS
        from edgekit.runtimes.inputs.media import read_image

        image = read_image(place / "image")
        assert image.shape[0] * image.shape[1] <= MOST_PIXELS
        return digest(image, image.shape)


class Media(Kind):
    """Stacks, lists, and videos of several codecs."""

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        from hostile_images import PICTURE, encoded, film

        np.save(folder / "a.npy", np.stack([PICTURE] * 3))
        np.savez(folder / "stored.npz", PICTURE, PICTURE)
        np.savez_compressed(folder / "packed.npz", PICTURE, PICTURE)
        (folder / "a.png").write_bytes(encoded(".png"))
        (folder / "a.txt").write_text("a.png\n# a comment\n../a.png\na.png\n")
        for codec, name in (("MJPG", "a.avi"), ("mp4v", "a.mp4"), ("XVID", "a.mkv"), ("mp4v", "a.mov")):
            film(folder / name, codec)
        self.bases = sorted(path for path in folder.iterdir() if path.suffix != ".png" and path.stat().st_size)

    def put(self, base: str, place: Path) -> None:
        shutil.copy(self.folder / base, place / base)
        shutil.copy(self.folder / "a.png", place / "a.png")

    def make(self, random: Random, place: Path) -> Made:
        base = random.choice(self.bases).name
        self.put(base, place)
        data, did = change_bytes((place / base).read_bytes(), random)
        (place / base).write_bytes(data)
        return Made(base, f"{base}: {did}")

    def take(self, kept: Path, place: Path) -> Made:
        shutil.copy(kept, place / kept.name)
        return Made("a.npy", kept.name)

    def open(self, place: Path, *, isolated: bool = False) -> Any:
        from edgekit.runtimes.inputs import media

        (source,) = [path for path in place.iterdir() if path.name != "a.png"]
        media.count(source)
        found = [digest(frame.image) for frame in itertools.islice(media.frames(source), 8)]
        return digest(found)


# ---- contract files ----


class Contracts(Kind):
    """Contract files, as text and key by key."""

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        self.bases = {path.name: path.read_bytes() for path in sorted((ROOT / "examples").glob("*.yaml"))}
        self.bases["pose.yaml"] = _POSE
        for base in self.bases:
            self.whole(base)

    def put(self, base: str, place: Path) -> None:
        (place / "contract.yaml").write_bytes(self.bases[base])

    def make(self, random: Random, place: Path) -> Made:
        import yaml

        base = random.choice(sorted(self.bases))
        if random.random() < 0.35:
            data, did = change_bytes(self.bases[base], random)
            (place / "contract.yaml").write_bytes(data)
            return Made(base, f"{base}: {did}")
        tree, did = change_tree(yaml.safe_load(self.bases[base]), random)
        text = json.dumps(tree) if random.random() < 0.3 else yaml.safe_dump(tree, allow_unicode=True)
        (place / "contract.yaml").write_text(text, "utf-8")
        return Made(base, f"{base}: {did}")

    def take(self, kept: Path, place: Path) -> Made:
        shutil.copy(kept, place / "contract.yaml")
        return Made("pose.yaml", kept.name)

    def open(self, place: Path, *, isolated: bool = False) -> Any:
        from edgekit.sources.contract_file import read_contract

        return repr(read_contract(place / "contract.yaml"))


_POSE = b"""task: pose
image: {size: [64, 48], resize: letterbox}
classes: [person]
decoder: {name: anchor_free, strides: [8, 16, 32], reg_max: 16}
postprocess: {score: 0.3, iou: 0.6, max_detections: 100}
skeleton: coco
cut:
  - {tensor: a, role: boxes, level: 0}
  - {tensor: b, role: classes, level: 0}
"""


# ---- trained models ----


class SourceKind(Kind):
    """A file or folder with a trained model; only reading it counts, as its stage of a conversion does."""

    suffix = ""
    spec, weights = "", False
    size: tuple[int, int] | None = None

    def put(self, base: str, place: Path) -> None:
        shutil.copy(self.folder / f"whole{self.suffix}", place / f"model{self.suffix}")

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        self.write(folder / f"whole{self.suffix}")
        self.whole("whole")

    def write(self, path: Path) -> None:
        """Write the whole one."""
        raise NotImplementedError

    def make(self, random: Random, place: Path) -> Made:
        self.put("whole", place)
        path = place / f"model{self.suffix}"
        if self.suffix in (".pt2", ".pt") and random.random() < 0.7:
            return Made("whole", change_archive(path, random))
        data, did = random.choice((change_bytes, change_gently))(path.read_bytes(), random)
        path.write_bytes(data)
        return Made("whole", did)

    def take(self, kept: Path, place: Path) -> Made:
        shutil.copy(kept, place / f"model{self.suffix}")
        return Made("whole", kept.name)

    def open(self, place: Path, *, isolated: bool = False) -> Any:
        from edgekit.sources import SourceRequest, WrittenModel, load
        from edgekit.sources.blip2.reference import load_model, load_tokenizer

        path = place / f"model{self.suffix}"
        request = SourceRequest(self.spec, weights=path) if self.weights else SourceRequest(str(path), size=self.size)
        found = load(request)
        if isinstance(found, WrittenModel):
            load_tokenizer(found.source)
            module, of = load_model(found.source), repr(found.contract)
        else:
            module, of = found.module, repr((tuple(found.example.shape), found.contract))
        return digest(of, *(tensor.detach().float().numpy() for tensor in module.state_dict().values()))


def change_archive(path: Path, random: Random) -> str:
    """Change one member of a zip archive, everything else and the checksums in order: JSON as a tree."""
    import zipfile

    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = random.choice(sorted(members))
    texts = [one for one in sorted(members) if members[one][:1] in (b"{", b"[")]
    if texts and random.random() < 0.6:
        name = random.choice(texts)
        tree, did = change_tree(json.loads(members[name]), random)
        members[name] = json.dumps(tree).encode()
    elif random.random() < 0.1:
        del members[name]
        did = "left out"
    else:
        members[name], did = random.choice((change_bytes, change_gently))(members[name] or b"\0", random)
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            archive.writestr(member, data)
    return f"{name}: {did}"


class OnnxSource(SourceKind):
    """An ONNX file."""

    suffix = ".onnx"

    def write(self, path: Path) -> None:
        from tiny_onnx import write_model

        write_model(path)

    def make(self, random: Random, place: Path) -> Made:
        if random.random() < 0.4:
            return super().make(random, place)
        self.put("whole", place)
        return Made("whole", change_onnx(place / "model.onnx", random))


class Exported(SourceKind):
    """A torch.export program."""

    suffix = ".pt2"

    def write(self, path: Path) -> None:
        import tiny_models
        import torch

        torch.export.save(torch.export.export(tiny_models.detector(), (torch.rand(1, 3, 64, 64),)), path)


class StateDict(SourceKind):
    """Weights of a factory, pickled."""

    suffix = ".pt"
    spec, weights = "tiny_models:detector", True

    def write(self, path: Path) -> None:
        import tiny_models
        import torch

        torch.save(tiny_models.detector().state_dict(), path)


class Safetensors(SourceKind):
    """Weights of a factory, as safetensors."""

    suffix = ".safetensors"
    spec, weights = "tiny_models:detector", True

    def write(self, path: Path) -> None:
        import tiny_models
        from safetensors.torch import save_file

        save_file(tiny_models.detector().state_dict(), path)


class Checkpoint(SourceKind):
    """A pickled checkpoint, as ultralytics reads it."""

    suffix = ".pt"
    size = (160, 192)

    def write(self, path: Path) -> None:
        import torch
        from ultralytics.nn import tasks

        head = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]]
        config = {"nc": 2, "backbone": head, "head": [[[0, 1, 2], 1, "Detect", ["nc"]]], "ch": 3}
        torch.save({"model": tasks.DetectionModel(config, verbose=False)}, path)


class Transformers(SourceKind):
    """A folder of transformers: configuration, processor, weights."""

    kind = "yolos"

    def write(self, path: Path) -> None:
        from tiny_transformers import write

        write(self.kind, path)

    def put(self, base: str, place: Path) -> None:
        shutil.copytree(self.folder / "whole", place / "model")

    def make(self, random: Random, place: Path) -> Made:
        self.put("whole", place)
        path = random.choice([*sorted((place / "model").iterdir()), place / "model" / "config.json"])
        if path.suffix == ".json" and random.random() < 0.8:
            tree, did = change_tree(json.loads(path.read_bytes()), random)
            path.write_text(json.dumps(tree), "utf-8")
        else:
            data, did = change_bytes(path.read_bytes(), random)
            path.write_bytes(data)
        return Made("whole", f"{path.name}: {did}")

    def take(self, kept: Path, place: Path) -> Made:
        """A file of the corpus says which nodes of which file are other ones."""
        self.put("whole", place)
        told = json.loads(kept.read_bytes())
        set_nodes(place / "model", told["nodes"])
        return Made("whole", told["said"])


class Blip2Source(Transformers):
    """A folder of a BLIP-2."""

    def write(self, path: Path) -> None:
        import tiny_blip2

        tiny_blip2.opt(path)


# ---- devices ----


class Devices(Kind):
    """What a device says: to a whole profiling session, from the greeting to the record."""

    def prepare(self, folder: Path) -> None:
        super().prepare(folder)
        from sample_bundles import write_bundle

        from edgekit.profiling.devices import connection, ssh, waiting

        waiting.SILENCE = 0.6
        connection.ANSWER_SECONDS = 3.0
        self.bundle = write_bundle(folder / "bundle")
        self.script = folder / "script"
        self.said = _session(self.bundle)
        ssh.command = lambda device, remote, **_: ["sh", str(self.script)]

    def put(self, base: str, place: Path) -> None:
        (place / "said").write_bytes(b"".join(self.said))

    def make(self, random: Random, place: Path) -> Made:
        lines = list(self.said)
        number = random.randrange(len(lines))
        what = random.random()
        if what < 0.6 and lines[number].startswith(b"{"):
            tree, did = change_tree(json.loads(lines[number]), random)
            lines[number] = json.dumps(tree).encode() + b"\n"
        elif what < 0.85:
            lines[number], did = change_bytes(lines[number], random)
        elif what < 0.9:
            del lines[number]
            did = "left out"
        elif what < 0.95:
            lines[number:number] = [lines[number]] * random.choice((1, 1000))
            did = "said again"
        else:
            random.shuffle(lines)
            did = "all in another order"
        (place / "said").write_bytes(b"".join(lines))
        return Made("whole", f"line {number} {did}")

    def take(self, kept: Path, place: Path) -> Made:
        shutil.copy(kept, place / "said")
        return Made("whole", kept.name)

    def open(self, place: Path, *, isolated: bool = False) -> Any:
        from edgekit.profiling.devices import known, remote
        from edgekit.profiling.record import Settings

        # Half of them end by themselves, half fall silent.
        then = "exit 0" if hashlib.sha256((place / "said").read_bytes()).digest()[0] % 2 else "cat > /dev/null"
        self.script.write_text(f"cat {place / 'said'}\n{then}\n")
        device = known.described("loop", "ssh://127.0.0.1:1", python="python3", folder="/far")
        told: list[str] = []
        found = remote.profile_on(device, [self.bundle], Settings(), lambda event: told.append(repr(event)))
        return digest(repr(found))


def _session(bundle: Any) -> list[bytes]:
    """What a device says in a session that goes well, line by line."""
    import msgspec
    from sample_profiles import profile as sample_profile

    from edgekit.profiling.devices.delivery import bundle_tree
    from edgekit.profiling.protocol import Profiled, SessionResult
    from edgekit.worker import messages

    facts: dict[str, object] = {
        "python": "3.11.0",
        "executable": "/usr/bin/python3",
        "machine": "x",
        "system": "Linux",
        "model": "Board",
    }
    facts |= {"folder": "/far", "free": 1 << 40, "environment": True}
    there = f"/far/bundles/{bundle_tree(bundle).digest}/{bundle.path.name}"
    profile = sample_profile(1, "onnx", "fp32")
    subject = msgspec.structs.replace(profile.subject, path=there)
    found = (Profiled(profile=msgspec.structs.replace(profile, subject=subject)),)
    result = msgspec.Raw(msgspec.json.encode(SessionResult(found=found)))
    answers = [json.dumps({"answer": value}).encode() + b"\n" for value in (facts, [False, False], None)]
    progress = messages.encode(messages.WorkerProgress(text="measuring", share=0.5))
    done = messages.encode(messages.Done(result=result, seconds=1.0, peak_bytes=1))
    return [b"\nedgekit-agent 3.11.0\n", *answers, progress, b'{"type": "alive"}\n', progress, done]


# ---- negative control: misbehaviour that has to be found ----


class Planted(Onnx):
    """A bundle whose decoder does what its seed says."""

    ACTS = ("refused", "same", "another", "wrong", "foreign", "crash", "hang", "memory")

    def make(self, random: Random, place: Path) -> Made:
        raise NotImplementedError

    def take(self, kept: Path, place: Path) -> Made:
        """The file's name is what its decoder does."""
        self.put(self.origin.name, place)
        self.act = kept.name
        return Made(self.origin.name, kept.name, sealed=kept.name == "wrong")

    def result(self, model: Any) -> Any:
        result = model.task.result

        def decode(*given: Any, **options: Any) -> Any:
            _ACTS.get(getattr(self, "act", ""), lambda: None)()
            return result(*given, **options)

        model.task.result = decode
        return super().result(model) + getattr(self, "act", "same").partition("same")[0]


def _refuse() -> None:
    raise BundleError("planted")


def _foreign() -> None:
    raise KeyError("planted")


def _crash() -> None:
    import ctypes

    ctypes.string_at(0)


def _hang() -> None:
    while True:
        time.sleep(0.01)


def _memory() -> None:
    held = [np.ones(10_000_000) for _ in range(10)]
    assert held


_ACTS: dict[str, Callable[[], None]] = {
    "refused": _refuse,
    "foreign": _foreign,
    "crash": _crash,
    "hang": _hang,
    "memory": _memory,
}

KINDS: dict[str, type[Kind]] = {
    "bundle-onnx": Onnx,
    "bundle-litert": Litert,
    "bundle-ncnn": Ncnn,
    "bundle-openvino": Openvino,
    "bundle-mnn": Mnn,
    "bundle-blip2": Blip2,
    "image": Images,
    "media": Media,
    "contract": Contracts,
    "source-onnx": OnnxSource,
    "source-pt2": Exported,
    "source-weights": StateDict,
    "source-safetensors": Safetensors,
    "source-ultralytics": Checkpoint,
    "source-transformers": Transformers,
    "source-blip2": Blip2Source,
    "device": Devices,
    "planted": Planted,
}
