"""Hostile and damaged inputs of every kind: recipes with random details, each giving the arguments of a command."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from PIL import Image
from tiny import CLASSES, Tiny

REFUSED, RIGHT, EITHER = "refused", "right", "either"
"""What must come out: exit code 2 and one line, the right numbers, or one of the two."""


@dataclass
class Attempt:
    """One input in its place: the command that meets it, and what must come out.

    ``same_numbers``: where an evaluation answers, it is with the numbers of the sound input.
    """

    name: str
    arguments: list[str]
    expected: str = REFUSED
    same_numbers: bool = True


class Trap:
    """What pickles, YAML tags, factories and commands are made to run, if anything runs them: it leaves a file."""

    def __init__(self, root: Path) -> None:
        self.sprung = root / "sprung"
        self.command = f"touch {self.sprung}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def bomb(depth: int, leaf: str = "lol") -> str:
    """A YAML value of nine to the power of ``depth`` leaves, in a few hundred bytes, and the anchors before it."""
    lines = [f"a0: &a0 [{', '.join([leaf] * 9)}]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, depth)]
    return "\n".join(lines)


def endless(path: Path, chance: random.Random) -> str:
    """In the place of a file something that never ends, or is none."""
    path.unlink(missing_ok=True)
    kind = chance.choice(["pipe", "zero", "directory", "dangling", "loop"])
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to({"zero": "/dev/zero", "dangling": path.parent / "nowhere", "loop": path}[kind])
    return kind


NAMES = ["../../x", "a/b/c", "/etc/x", "a\0b", "\x1b[2J", "x\ry", "\ud800", "..", "", "x" * 400, "a\\b"]
"""No file of one directory can, or should, have such a name."""

ODD_NAMES = ["$x^{2$", "=cmd|' /C calc'!A0", "+1", "@SUM(1)", "%s%n", "{0.__class__}", "${HOME}", "-rf", "名前", "a b"]
"""Names that something on the way may take for more than a name."""

NUMBERS = [10**40, -1, 0, 1.5, float("nan"), float("inf"), "3", True, None, [3], {"a": 1}, "2024-01-01"]


# -------------------------------------------------------------------- configs


def configs(tiny: Tiny, trap: Trap, chance: random.Random) -> Iterator[Callable[[], Attempt]]:
    """A benchmark's YAML."""

    def run(name: str, expected: str = REFUSED, **options: Any) -> Attempt:
        return Attempt(name, tiny.eval(**options), expected)

    def alias_bomb() -> Attempt:
        key = chance.choice(["name", "num_classes", "preprocessing", "id", "network", "unknown", "checkpoints"])
        depth = chance.randint(8, 40)
        body = yaml.safe_dump(tiny.config)
        tiny.yaml.write_text(f"{bomb(depth)}\n{body}  {key}2: *a{depth - 1}\n".replace(f"{key}2", key, 1))
        return run(f"alias bomb {depth} deep in {key}")

    def named_code() -> Attempt:
        (tiny.root / "evil.py").write_text(f"import os\nos.system({trap.command!r})\ndef make(**_): pass\n")
        spec = chance.choice(
            [
                "os:system",
                "subprocess:run",
                "builtins:exec",
                "evil:make",
                f"{tiny.root / 'evil.py'}:make",
                "torch.hub:load",
            ]
            + [
                "nci_plugin.networks.factory:build_network",
                "importlib:import_module",
                "timm:hf-hub:x/y",
                "pickle:loads",
            ]
        )
        values = {"command": trap.command, "args": trap.command, "source": trap.command, "pretrained": True}
        name = chance.choice(list(values))
        tiny.config["benchmark"]["network"] = {"factory": spec, "arguments": {name: values[name]}}
        tiny.save_config()
        return run(f"network {spec}", net=None)

    def tag() -> Attempt:
        value = chance.choice(
            [f"!!python/object/apply:os.system ['{trap.command}']", f"!!python/object/new:os.system ['{trap.command}']"]
            + [
                "!!python/name:os.system",
                "!!python/module:evil",
                "!!binary /w==",
                "!!timestamp 2024-01-01",
                "!!set {a}",
            ]
        )
        tiny.yaml.write_text(tiny.yaml.read_text().replace("num_classes: 3", f"num_classes: {value}"))
        return run(f"tag {value.split()[0]}")

    def duplicate() -> Attempt:
        key, value = chance.choice([("num_classes", "3"), ("name", "tiny"), ("id", "{}"), ("ood", "{}")])
        tiny.yaml.write_text(tiny.yaml.read_text() + f"  {key}: {value}\n")
        return run(f"{key} twice")

    def number() -> Attempt:
        place = chance.choice(["num_classes", "pre_size", "img_size"])
        holder = tiny.config["benchmark"] if place == "num_classes" else tiny.config["benchmark"]["preprocessing"]
        value = chance.choice(NUMBERS if place == "num_classes" else [each for each in NUMBERS if each is not None])
        holder[place] = value
        tiny.save_config()
        return run(f"{place} {value!r}")

    def giant_images() -> Attempt:
        tiny.config["benchmark"]["preprocessing"][chance.choice(["pre_size", "img_size"])] = 10 ** chance.randint(5, 9)
        tiny.save_config()
        return run("images of gigapixels")

    def name() -> Attempt:
        tiny.config["benchmark"]["name"] = chance.choice([*NAMES, 3.5, None, ["x"]])
        tiny.yaml.write_text(yaml.safe_dump(tiny.config, allow_unicode=False))
        return run(f"benchmark named {tiny.config['benchmark']['name']!r}", EITHER)

    def data_set() -> Attempt:
        new, near = chance.choice([*NAMES, *ODD_NAMES]), tiny.config["benchmark"]["ood"]["near"]
        near["datasets"][0], near[new] = new, near.pop("near")
        tiny.yaml.write_text(yaml.safe_dump(tiny.config, allow_unicode=False))
        return run(f"data set named {new!r}", EITHER)

    def place() -> Attempt:
        entry = tiny.config["benchmark"]["id"]["test"]
        entry[chance.choice(["data_dir", "imglist_path"])] = chance.choice(
            ["../../..", "/etc/passwd", "a\0b", "x" * 5000]
        )
        tiny.save_config()
        return run("a place that is none")

    def shape() -> Attempt:
        whole = tiny.yaml.read_bytes()
        content = chance.choice(
            [b"[" * 100_000, b"{a: " * 5000, b"\xff\xfe" + whole.decode().encode("utf-16-le"), b"", b"\0" * 1000]
            + [
                b" " * 30_000_000,
                whole + b"\x07",
                b"- " * 50_000,
                b"benchmark: &a [*a]",
                b"&a a: *b",
                b"%YAML 9.9\n---\n3",
            ]
        )
        tiny.yaml.write_bytes(content)
        return run(f"YAML of {len(content)} bytes")

    def unending() -> Attempt:
        return run(f"config is a {endless(tiny.yaml, chance)}")

    yield from (alias_bomb, named_code, tag, duplicate, number, giant_images, name, data_set, place, shape, unending)


# -------------------------------------------------------------------- lists and images


def lists(tiny: Tiny, trap: Trap, chance: random.Random) -> Iterator[Callable[[], Attempt]]:
    """An image list."""
    path = tiny.list(chance.choice(["train", "test", "near", "oodval"]))
    lines = path.read_text().splitlines()

    def written(text: str | bytes, what: str, expected: str = REFUSED) -> Attempt:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return Attempt(f"{path.stem} list: {what}", tiny.eval(), expected)

    def outside() -> Attempt:
        where = chance.choice(["../../../tiny.ckpt", "/etc/passwd", "test/../../../tiny.ckpt", "a\0b", "x" * 5000])
        return written("\n".join([*lines, f"{where} 0", ""]), f"a line {where[:30]!r}")

    def label() -> Attempt:
        value = chance.choice(["1.5", "nan", "1e3", "9" * 30, "cat", "０", "--1", "0x1", "1_0", "inf"])
        return written("\n".join([f"{lines[0].split()[0]} {value}", *lines[1:], ""]), f"label {value}")

    def layout() -> Attempt:
        text = "\n".join([*lines, ""])
        forms = {
            "BOM": "\ufeff" + text,
            "two spaces": text.replace(" ", "  "),
            "CRLF": text.replace("\n", "\r\n"),
            "./": "".join(f"./{line}\n" for line in lines),
        }
        form = chance.choice(list(forms))
        return written(forms[form], form, EITHER)

    def damaged() -> Attempt:
        content = chance.choice([b"", b"\n\n", b"\xff\xfe\n", b"\0" * 100, b"x" * 2_000_000, b"a b c d 0\n", b"0\n1\n"])
        return written(content, f"{len(content)} bytes {content[:6]!r}")

    def unending() -> Attempt:
        return Attempt(f"{path.stem} list is a {endless(path, chance)}", tiny.eval())

    yield from (outside, label, layout, damaged, unending)


def images(tiny: Tiny, trap: Trap, chance: random.Random) -> Iterator[Callable[[], Attempt]]:
    """An image file that is passed."""
    path = tiny.image(chance.choice(["test", "csid", "near", "far"]), chance.randint(0, 5))

    def run(what: str, expected: str = REFUSED) -> Attempt:
        return Attempt(f"image: {what}", tiny.eval(), expected)

    def no_image() -> Attempt:
        whole = path.read_bytes()
        contents = {
            "empty": b"",
            "text": b"hello",
            "HTML": b"<!DOCTYPE html><html></html>",
            "cut": whole[: len(whole) // 2],
            "SVG": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
            "PDF": b"%PDF-1.4\n",
            "noise": bytes(chance.randrange(256) for _ in range(500)),
        }
        kind = chance.choice(list(contents))
        path.write_bytes(contents[kind])
        return run(kind)

    def postscript() -> Attempt:
        path.write_text(
            "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n"
            f"(%pipe%{trap.command}) (w) file\nshowpage\n"
        )
        return run("PostScript that runs a command")

    def pixel_bomb() -> Attempt:
        buffer = io.BytesIO()
        Image.new("1", (chance.choice([30_000, 60_000]), 30_000)).save(buffer, "PNG")
        path.write_bytes(buffer.getvalue())
        return run("a picture of a gigapixel")

    def deep_grey() -> Attempt:
        size, kind = (8, 8), chance.choice(["I;16", "F"])
        array = np.full(size, 30_000, dtype=np.uint16) if kind == "I;16" else np.full(size, 3e4, dtype=np.float32)
        Image.fromarray(array).save(path, "PNG" if kind == "I;16" else "TIFF")
        return Attempt(f"image: mode {kind}", tiny.eval(), EITHER, same_numbers=False)

    def unending() -> Attempt:
        return run(f"is a {endless(path, chance)}")

    yield from (no_image, postscript, pixel_bomb, deep_grey, unending)


# -------------------------------------------------------------------- checkpoints and networks


def checkpoints(tiny: Tiny, trap: Trap, chance: random.Random) -> Iterator[Callable[[], Attempt]]:
    """A checkpoint."""
    path = tiny.root / "hostile.ckpt"
    weights = tiny.loaded().state_dict()

    def run(what: str, expected: str = REFUSED, file: Path = path) -> Attempt:
        return Attempt(f"checkpoint: {what}", tiny.eval(ckpt_path=file), expected)

    def pickled() -> Attempt:
        content: Any = chance.choice([trap, {**weights, "x": trap}, {"state_dict": weights, "hooks": [trap]}])
        how = chance.choice(["pickle", "zip", "before torch 1.6"])
        if how == "pickle":
            path.write_bytes(pickle.dumps(content))
        else:
            torch.save(content, path, _use_new_zipfile_serialization=how == "zip")
        return run(f"code in a {how}")

    def inflating() -> Attempt:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("x/data.pkl", pickle.dumps(1))
            with archive.open("x/data/0", "w", force_zip64=True) as member:
                for _ in range(chance.choice([64, 256])):
                    member.write(b"\0" * 2**24)
        path.write_bytes(buffer.getvalue())
        return run("a zip that inflates to gigabytes")

    def odd_tensor() -> Attempt:
        name = chance.choice(list(weights))
        weight = weights[name]
        weights[name] = chance.choice(
            [weight.to_sparse(), weight.to("meta"), weight.to(torch.complex64), weight * float("nan"), weight[:0]]
            + [
                weight.to(torch.float8_e4m3fn),
                torch.nested.nested_tensor([weight.flatten()]),
                weight.bool(),
                weight.int(),
            ]
        )
        torch.save(weights, path)
        return run(f"{name} is {weights[name].dtype}, {weights[name].layout}")

    def called_otherwise() -> Attempt:
        content = chance.choice(
            [b"<!DOCTYPE html><html>404</html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n"]
            + [b"", b"PK\x03\x04", b"\x80\x02.", b"\x93NUMPY\x01\x00", b"x" * 1000]
        )
        path.write_bytes(content)
        return run(f"{content[:12]!r}")

    def giant_header() -> Attempt:
        file = path.with_suffix(".safetensors")
        file.write_bytes(chance.choice([2**62, 2**40, 10**9, 3]).to_bytes(8, "little") + b'{"a":' * 10)
        return run("safetensors with a giant header", file=file)

    def wrapped() -> Attempt:
        prefix = chance.choice(["module.", "_orig_mod.", "model.", "net.", "module._orig_mod.", "model.module."])
        content: Any = {f"{prefix}{name}": weight for name, weight in weights.items()}
        container = chance.choice([None, "state_dict", "model", "model_state", "network", "weights", "state_dict_ema"])
        torch.save(content if container is None else {container: content, "epoch": 3}, path)
        return run(f"{container} {prefix}", RIGHT)

    def unending() -> Attempt:
        return run(f"is a {endless(path, chance)}")

    yield from (pickled, inflating, odd_tensor, called_otherwise, giant_header, wrapped, unending)


FORWARDS = {
    "return []": REFUSED,
    "return None": REFUSED,
    "return {'loss': x}": REFUSED,
    "return 'logits'": REFUSED,
    "return self.fc(self.h(x)) * float('nan')": REFUSED,
    "raise SystemExit(0)": REFUSED,
    "import sys; sys.exit('bye')": REFUSED,
    "raise BaseException('x')": REFUSED,
    "raise GeneratorExit": REFUSED,
    "raise MemoryError('x')": REFUSED,
    "return self.forward(x)": REFUSED,
    "return self.fc(F.dropout(self.h(x), 0.5))": REFUSED,
    "return self.fc(self.h(x + torch.randn_like(x)))": REFUSED,
    "self.n += 1; return self.fc(self.h(x) * self.n)": REFUSED,
    "return self.fc(self.h(x - x.mean(0, keepdim=True)))": REFUSED,
    "return self.fc(self.h(x))[:1]": REFUSED,
    "return self.fc(self.h(x)).T": REFUSED,
    "return self.fc(self.h(x)).argmax(1)": REFUSED,
    "return self.fc(self.h(x)).softmax(1)": REFUSED,
    "return torch.cat([self.fc(self.h(x))] * 2, 1)": REFUSED,
    "return self.fc(self.h(x)), x": RIGHT,
    "return {'logits': self.fc(self.h(x))}": RIGHT,
    "return self.fc(self.h(x.clone().requires_grad_()))": RIGHT,
}
"""Bodies of a network's forward, and what must come out."""


def networks(tiny: Tiny, trap: Trap, chance: random.Random) -> Iterator[Callable[[], Attempt]]:
    """A network's own code."""

    def forward() -> Attempt:
        body = chance.choice(list(FORWARDS))
        file = tiny.root / "code" / "hostile.py"
        file.write_text(
            "import torch\nimport torch.nn.functional as F\nfrom net import TinyNet\n\n\nclass Hostile(TinyNet):\n"
            "    n = 0\n\n    def h(self, x):\n        return self.pool(self.conv(x).relu()).flatten(1)\n\n"
            f"    def forward(self, x):\n        {body}\n\n\n"
            "def make(num_classes=3):\n    return Hostile(num_classes)\n"
        )
        return Attempt(f"network: {body}", tiny.eval(net=f"{file}:make"), FORWARDS[body])

    def factory() -> Attempt:
        file = tiny.root / "code" / "hostile.py"
        body = chance.choice(
            ["raise SystemExit(0)", "return None", "return 3", "import sys; sys.exit()", "raise BaseException", "1 / 0"]
        )
        file.write_text(f"def make(num_classes=3):\n    {body}\n")
        return Attempt(f"factory: {body}", tiny.eval(net=f"{file}:make"))

    yield from (forward, forward, forward, factory)


# -------------------------------------------------------------------- what an earlier run stored


def reading(tiny: Tiny, chance: random.Random) -> list[str]:
    """A command that reads a results directory."""
    output = str(tiny.output)
    return chance.choice([["report", output], ["report", output, "--figures"], ["leaderboard", "rank", output]])


def row_values(chance: random.Random) -> tuple[str, Any]:
    """A field of a stored row, and a value that it should not have."""
    values = {
        **dict.fromkeys(["detector", "seed", "benchmark", "dataset"], [*NAMES, *ODD_NAMES]),
        **dict.fromkeys(["setting", "group"], ["", "x", "../x", 3, None]),
        **dict.fromkeys(["auroc", "fpr95", "acc", "aupr_in"], [10**400, -5, 101, None, "99", [], float("nan")]),
        **dict.fromkeys(["n_id", "n_ood"], [-1, 10**30, 1.5, "7"]),
        **dict.fromkeys(["hyperparameters", "seconds", "provenance"], [None, [], "x", {"a" * 10**5: 1}]),
    }
    field = chance.choice(list(values))
    return field, chance.choice(values[field])


def rows(tiny: Tiny, trap: Trap, chance: random.Random) -> Iterator[Callable[[], Attempt]]:
    """The rows of an earlier run; ``stored`` must have been run before."""
    path = tiny.output / "results.jsonl"

    def changed() -> Attempt:
        from nci_plugin.files import digest

        lines = path.read_text().splitlines()
        field, value = row_values(chance)
        for index in range(len(lines)) if chance.random() < 0.5 else [chance.randrange(len(lines))]:
            raw = {**json.loads(lines[index]), field: value}
            raw.pop("checksum", None)
            lines[index] = json.dumps({**raw, "checksum": digest(json.dumps(raw))})
        path.write_text("".join(f"{line}\n" for line in lines))
        return Attempt(f"rows: {field} = {str(value)[:30]!r}", reading(tiny, chance), EITHER)

    def damaged() -> Attempt:
        whole = path.read_bytes()
        content = chance.choice(
            [
                whole[:-10],
                b"[" * 100_000 + b"\n",
                b"{}\n",
                b"\xff\n",
                b"null\n",
                whole.replace(b"auroc", b"aurok"),
                b"1\n" * 9,
            ]
            + [whole.replace(b'"dataset": "', b'"dataset": "x'), b'{"a":' * 50_000]
        )
        path.write_bytes(content)
        return Attempt(f"rows: {content[:20]!r}", reading(tiny, chance))

    def unending() -> Attempt:
        return Attempt(f"results.jsonl is a {endless(path, chance)}", reading(tiny, chance))

    yield from (changed, changed, damaged, unending)


def arrays(tiny: Tiny, trap: Trap, chance: random.Random) -> Iterator[Callable[[], Attempt]]:
    """The scores of an earlier run; a report does not read predictions."""
    path = tiny.output / "scores" / "msp.npz"

    def changed() -> Attempt:
        with np.load(path) as stored:
            content: dict[str, Any] = dict(stored)
        name = chance.choice(list(content))
        whole = content[name]
        kinds = {
            "matrix": whole[:, None],
            "empty": whole[:0],
            "text": whole.astype(str),
            "scalar": np.array(1.0),
            "NaN": np.full(len(whole), np.nan),
            "complex": whole.astype(complex),
            "short": whole[:-1],
            "pickled": np.array([trap], dtype=object),
        }
        kind = chance.choice([*kinds, "missing", "other name"])
        content.pop(name)
        if kind in kinds:
            content[name] = kinds[kind]
        elif kind == "other name":
            content[chance.choice(NAMES[:4])] = whole
        np.savez(path, **content)
        return Attempt(f"{path.name}: {name} {kind}", ["report", str(tiny.output)], EITHER)

    def inflating() -> Attempt:
        with (
            zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
            archive.open("id/test.npy", "w", force_zip64=True) as member,
        ):
            header = {"descr": "<f8", "fortran_order": False, "shape": (2**29,)}
            np.lib.format.write_array_header_1_0(member, header)  # type: ignore[arg-type]  # it only writes
            for _ in range(256):
                member.write(b"\0" * 2**24)
        return Attempt(f"{path.name} that inflates to 4 GB", ["report", str(tiny.output)])

    def unending() -> Attempt:
        return Attempt(f"{path.name} is a {endless(path, chance)}", ["report", str(tiny.output)], EITHER)

    yield from (changed, changed, changed, inflating, unending)


# -------------------------------------------------------------------- arguments


def arguments(tiny: Tiny, trap: Trap, chance: random.Random) -> Iterator[Callable[[], Attempt]]:
    """The command line."""

    def option() -> Attempt:
        values = {
            "batch_size": ["0", "-1", "1.5", "nan", "9" * 30, ""],
            "workers": ["-1", "x", "9" * 20],
            "device": ["cuda:99", "tpu", "", "cpu:7", "meta"],
            "head": ["nowhere", "conv", "../x", ""],
            "net": [
                "x",
                ":",
                "nowhere.py:make",
                "os:system",
                "torchvision:x",
                f"{tiny.net}:NOT_A_FACTORY",
                "/dev/zero:x",
            ],
            "ckpt_path": [tiny.root, tiny.root / "nowhere", "", "/dev/null", "x" * 5000, "a/../../b"],
            "data_root": [tiny.net, tiny.root / "nowhere", "/proc/self/mem", "x" * 300],
            "output": [tiny.net, "/proc/x", "x" * 300, tiny.net / "below", "/dev/null"],
            "amp": ["fp8", "", "bf16x"],
            "csid": ["nowhere", "../x", "csid none"],
        }
        name = chance.choice(list(values))
        value = str(chance.choice(values[name]))
        return Attempt(f"--{name} {value[:40]!r}", tiny.eval(**{name: value}))

    def detector() -> Attempt:
        name = chance.choice(
            ["../x", "os:system", "pytorch_ood:x", "openood:../x", "nowhere.yml", "x" * 5000, "", "--", "/dev/zero.yml"]
        )
        return Attempt(f"detector {name[:40]!r}", tiny.eval(name))

    def settings() -> Attempt:
        path = tiny.root / "d.yml"
        name, value = chance.choice(
            [("alpha", 1e999), ("alpha", "1e-4"), ("alpha", [1]), ("alpha", None), ("alpha", float("nan")), ("beta", 1)]
        )
        path.write_text(yaml.safe_dump({"postprocessor": {"name": "nci", "postprocessor_args": {name: value}}}))
        return Attempt(f"nci: {name} = {value!r}", tiny.eval(str(path)))

    def other_command() -> Attempt:
        given = chance.choice(
            [
                ["report", "nowhere"],
                ["report", str(tiny.data)],
                ["validate", str(tiny.net)],
                ["validate", "/dev/zero"],
                ["dynamics", str(tiny.data)],
                ["dynamics", str(tiny.checkpoint)],
                ["explain", str(tiny.net), str(tiny.yaml)],
                ["explain", "/dev/zero", "digits"],
                ["train", "digits", "--seeds", "9" * 20],
                ["train", "digits", "--epochs", "-1"],
                ["train", "digits", "--weight-decay", "nan"],
                ["leaderboard", "rank", "nowhere"],
                ["leaderboard", "compare", "cifar10", "x"],
                ["install", "--into", "nowhere"],
                ["install", "--into", "/dev/null"],
                ["run", "nowhere.py"],
                ["diagnose", "nowhere"],
                ["eval", "nowhere"],
                ["eval", "cifar10", "--data-root", "nowhere"],
            ]
        )
        return Attempt(" ".join(given), given)

    def beside_a_checkpoint() -> Attempt:
        """What a training is said to have been, in a directory that somebody else made."""
        directory = tiny.root / "downloaded"
        directory.mkdir()
        (directory / "model_epoch1.ckpt").write_bytes(tiny.checkpoint.read_bytes())
        (directory / "evil.yml").write_text(
            yaml.safe_dump({"benchmark": {**tiny.config["benchmark"], "network": {"factory": "os:system"}}})
        )
        nested = {"spec": "os:system", "num_classes": CLASSES, "arguments": {"command": trap.command}}
        said: Any = chance.choice(
            [
                {"network": "os:system", "network_arguments": {"command": trap.command}},
                {"network": "nci_plugin.networks.factory:build_network", "network_arguments": nested},
                {"network": "torchvision.models:resnet18", "network_arguments": {"weights": "/etc/passwd"}},
                {"network": "timm:resnet18", "network_arguments": {"checkpoint_path": "/etc/passwd"}},
                {"benchmark": str(directory / "evil.yml")},
                {"benchmark": "../../../etc/passwd"},
                {"network": ["os", "system"], "network_arguments": trap.command},
                [],
            ]
        )
        content = {"benchmark": "digits", **said} if isinstance(said, dict) else said
        (directory / "training.json").write_text(json.dumps(content))
        data = ["--data-root", str(tiny.data), "--output", str(tiny.output)]
        return Attempt(f"training.json {str(said)[:50]}", ["dynamics", str(directory), *data])

    yield from (option, option, detector, settings, other_command, other_command, beside_a_checkpoint)


KINDS: dict[str, Callable[[Tiny, Trap, random.Random], Iterator[Callable[[], Attempt]]]] = {
    "configs": configs,
    "lists": lists,
    "images": images,
    "checkpoints": checkpoints,
    "networks": networks,
    "rows": rows,
    "arrays": arrays,
    "arguments": arguments,
}
STORED = ("rows", "arrays")
"""Kinds that need what an earlier run stored."""
