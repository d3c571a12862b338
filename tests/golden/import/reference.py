"""Small networks of other families with random weights, and what they give: the golden files of `traflow import`.

    pip install numpy safetensors
    python tests/golden/import/reference.py            # writes the files beside this script
    python tests/golden/import/reference.py NET IO     # compares with a network and its inputs and outputs

Written from the formulas of the papers and from the names in published files; computed in f64.
"""

import collections
import io
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file


def silu(x):
    return x / (1 + np.exp(-x))


def conv(x, weight, bias=None):
    """Stride 1, zero padding that keeps the size."""
    k = weight.shape[-1]
    padded = np.pad(x, ((0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), (2, 3))
    y = np.einsum("nchwij,ocij->nohw", windows, weight)
    return y if bias is None else y + bias[None, :, None, None]


def norm(x, weight, bias, epsilon, groups=None):
    n, c = x.shape[:2]
    groups = groups or min(32, c // 4)
    y = x.reshape(n, groups, -1)
    y = (y - y.mean(2, keepdims=True)) / np.sqrt(y.var(2, keepdims=True) + epsilon)
    return y.reshape(x.shape) * weight[None, :, None, None] + bias[None, :, None, None]


def down(x, taps, pad=None):
    """y[i] = sum_k f[k] x[2 i + k - pad] along rows and columns; pad is (len - 1) / 2 unless given."""
    f = np.asarray(taps, float) / np.sum(taps)
    pad = (len(f) - 1) // 2 if pad is None else pad
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (len(f), len(f)), (2, 3))[:, :, ::2, ::2]
    return np.einsum("nchwij,i,j->nchw", windows, f, f)


def up(x, taps):
    """y[2 i + k - pad] gathers 2 f[k] x[i] along rows and along columns."""
    f = 2 * np.asarray(taps, float) / np.sum(taps)
    n, c, h, w = x.shape
    pad = (len(f) - 1) // 2
    y = np.zeros((n, c, 2 * h + len(f), 2 * w + len(f)))
    for i, a in enumerate(f):
        for j, b in enumerate(f):
            y[:, :, i : i + 2 * h : 2, j : j + 2 * w : 2] += a * b * x
    return y[:, :, pad : pad + 2 * h, pad : pad + 2 * w]


class Network:
    """EDM's SongUNet and DhariwalUNet. `p` gives a parameter by name and shape."""

    def __init__(self, config, p):
        self.config = dict(
            model_type="SongUNet",
            label_dim=0,
            augment_dim=0,
            channel_mult_emb=4,
            attn_resolutions=[],
            embedding_type="positional",
            channel_mult_noise=1,
            encoder_type="standard",
            decoder_type="standard",
            resample_filter=[1, 1],
            head_channels=64,
            out_channels=config["img_channels"],
        )
        self.config.update(config)
        self.p = p
        self.adm = self.config["model_type"] == "DhariwalUNet"
        self.epsilon, self.scale = (1e-5, 1.0) if self.adm else (1e-6, np.sqrt(0.5))

    def linear(self, name, x, out, bias=True):
        y = x @ self.p(name + ".weight", (out, x.shape[1])).T
        return y + self.p(name + ".bias", (out,)) if bias else y

    def conv(self, name, x, out, k):
        return conv(x, self.p(name + ".weight", (out, x.shape[1], k, k)), self.p(name + ".bias", (out,)))

    def norm(self, name, x):
        c = x.shape[1]
        return norm(x, self.p(name + ".weight", (c,)), self.p(name + ".bias", (c,)), self.epsilon)

    def filter(self, name):
        f = np.asarray(self.config["resample_filter"], float)
        self.p(name + ".resample_filter", None, np.outer(f, f)[None, None] / f.sum() ** 2)

    def embedding(self, t, width):
        if self.config["embedding_type"] == "fourier":
            x = np.outer(t, 2 * np.pi * self.p("map_noise.freqs", (width // 2,)))
        else:
            last = width // 2 - (0 if self.adm else 1)
            x = np.outer(t, 1e4 ** -(np.arange(width // 2) / last))
        parts = [np.cos(x), np.sin(x)] if self.adm else [np.sin(x), np.cos(x)]
        return np.concatenate(parts, 1)

    def block(self, name, x, e, out, resample=None, attention=False):
        taps = self.config["resample_filter"]
        size = {None: lambda x: x, "down": lambda x: down(x, taps), "up": lambda x: up(x, taps)}[resample]
        h = self.conv(name + ".conv0", size(silu(self.norm(name + ".norm0", x))), out, 3)
        if resample:
            self.filter(name + ".conv0")
        affine = self.linear(name + ".affine", e, 2 * out if self.adm else out)[:, :, None, None]
        if self.adm:
            h = silu(self.norm(name + ".norm1", h) * (1 + affine[:, :out]) + affine[:, out:])
        else:
            h = silu(self.norm(name + ".norm1", h + affine))
        h = self.conv(name + ".conv1", h, out, 3)
        skip = size(x)
        if x.shape[1] != out or (resample and not self.adm):
            skip = self.conv(name + ".skip", skip, out, 1)
        if resample:
            self.filter(name + ".skip")
        x = (h + skip) * self.scale
        heads = (out // self.config["head_channels"] if self.adm else 1) if attention else 0
        return self.attention(name, x, heads) if heads else x

    def attention(self, name, x, heads):
        n, c, height, width = x.shape
        qkv = self.conv(name + ".qkv", self.norm(name + ".norm2", x), 3 * c, 1)
        q, k, v = np.moveaxis(qkv.reshape(n, heads, c // heads, 3, -1), 3, 0)
        scores = np.einsum("nhcq,nhck->nhqk", q, k) / np.sqrt(c // heads)
        weights = np.exp(scores - scores.max(3, keepdims=True))
        weights /= weights.sum(3, keepdims=True)
        y = np.einsum("nhqk,nhck->nhcq", weights, v).reshape(x.shape)
        return (self.conv(name + ".proj", y, c, 1) + x) * self.scale

    def told(self, t, labels):
        c = self.config
        base, width = c["model_channels"], c["model_channels"] * (1 if self.adm else c["channel_mult_noise"])
        e = self.embedding(t, width)
        if c["label_dim"] and not self.adm:
            e = e + self.linear("map_label", labels * np.sqrt(c["label_dim"]), width)
        if c["augment_dim"]:
            e = e + self.linear("map_augment", np.zeros((len(t), c["augment_dim"])), width, bias=False)
        e = silu(self.linear("map_layer0", e, base * c["channel_mult_emb"]))
        e = self.linear("map_layer1", e, base * c["channel_mult_emb"])
        if c["label_dim"] and self.adm:
            e = e + self.linear("map_label", labels, e.shape[1], bias=False)
        return silu(e)

    def __call__(self, x, t, labels):
        c = self.config
        base, mult, blocks, taps = c["model_channels"], c["channel_mult"], c["num_blocks"], c["resample_filter"]
        e, aux, skips, out = self.told(t, labels), x, [], 0
        name = lambda side, level, what: f"{side}.{c['img_resolution'] >> level}x{c['img_resolution'] >> level}_{what}"
        attends = lambda level: (c["img_resolution"] >> level) in c["attn_resolutions"]
        for level, m in enumerate(mult):
            if level == 0:
                x = self.conv(name("enc", 0, "conv"), x, base * m if self.adm else base, 3)
            else:
                x = self.block(name("enc", level, "down"), x, e, x.shape[1], "down")
                if c["encoder_type"] == "skip":
                    aux = down(aux, taps)
                    self.filter(name("enc", level, "aux_down"))
                    x = x + self.conv(name("enc", level, "aux_skip"), aux, x.shape[1], 1)
                elif c["encoder_type"] == "residual":
                    # The convolution of the plane, beyond the picture as well, then the filter.
                    what = name("enc", level, "aux_residual")
                    reach = (len(taps) - 1) // 2
                    wide = np.pad(aux, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
                    aux = down(self.conv(what, wide, x.shape[1], 3), taps, 0)
                    self.filter(what)
                    x = aux = (x + aux) / np.sqrt(2)
            skips.append(x)
            for index in range(blocks):
                x = self.block(name("enc", level, f"block{index}"), x, e, base * m, None, attends(level))
                skips.append(x)
        picture = None
        for level, m in reversed(list(enumerate(mult))):
            if level == len(mult) - 1:
                x = self.block(name("dec", level, "in0"), x, e, x.shape[1], None, True)
                x = self.block(name("dec", level, "in1"), x, e, x.shape[1])
            else:
                x = self.block(name("dec", level, "up"), x, e, x.shape[1], "up")
            for index in range(blocks + 1):
                x = np.concatenate([x, skips.pop()], 1)
                last = self.adm or index == blocks
                x = self.block(name("dec", level, f"block{index}"), x, e, base * m, None, last and attends(level))
            if not self.adm and (level == 0 or c["decoder_type"] == "skip"):
                if picture is not None:
                    picture = up(picture, taps)
                    self.filter(name("dec", level, "aux_up"))
                h = silu(self.norm(name("dec", level, "aux_norm"), x))
                h = self.conv(name("dec", level, "aux_conv"), h, c["out_channels"], 3)
                picture = h if picture is None else picture + h
        if self.adm:
            return self.conv("out_conv", silu(self.norm("out_norm", x)), c["out_channels"], 3)
        return picture


def denoised(network, precond, x, sigma, labels):
    """EDM's Table 1."""
    s = sigma[:, None, None, None]
    channels = x.shape[1]
    if precond == "edm":
        n = np.sqrt(s**2 + 0.25)
        return 0.25 / n**2 * x + 0.5 * s / n * network(x / n, np.log(sigma) / 4, labels)
    if precond == "vp":
        tau = (np.sqrt(0.1**2 + 2 * 19.9 * np.log(1 + sigma**2)) - 0.1) / 19.9
        return x - s * network(x / np.sqrt(1 + s**2), 999 * tau, labels)
    if precond == "ve":
        return x + s * network(x, np.log(0.5 * sigma), labels)
    if precond == "iddpm":
        alpha = lambda j: np.sin(0.5 * np.pi * j / 1000 / 1.008) ** 2
        u = [0.0]
        for j in range(1000, 0, -1):
            u.insert(0, np.sqrt((u[0] ** 2 + 1) / max(alpha(j - 1) / alpha(j), 0.001) - 1))
        j = np.abs(np.array(u)[None] - sigma[:, None]).argmin(1)
        return x - s * network(x / np.sqrt(1 + s**2), 999.0 - j, labels)[:, :channels]
    raise ValueError(precond)


def velocity(network, precond, x_t, t, labels):
    if precond == "rectified-flow":
        return -network(x_t, 999 * (1 - t), labels)
    left = (1 - t)[:, None, None, None]
    return (x_t - denoised(network, precond, x_t / left, t / (1 - t), labels)) / t[:, None, None, None]


class Random:
    """Makes each parameter when it is first asked for."""

    def __init__(self, seed):
        self.random, self.tensors = np.random.default_rng(seed), {}

    def __call__(self, name, shape, value=None):
        if name not in self.tensors:
            if value is None:
                value = self.random.standard_normal(shape)
                if name.endswith("freqs"):
                    value = value * 16
                elif ".norm" in name or "_norm" in name:
                    value = 0.2 * value + (1 if name.endswith("weight") else 0)
                else:
                    value = value * (0.2 if len(shape) == 1 else np.prod(shape[1:]) ** -0.5)
            self.tensors[name] = value.astype(np.float32)
        return self.tensors[name].astype(float)


def make(config, precond, seed):
    """Tensors of a random network, and its inputs and outputs."""
    p = Random(seed)
    if precond == "iddpm":
        config = dict(config, out_channels=2 * config["img_channels"])
    network = Network(config, p)
    random = np.random.default_rng(seed + 1)
    t = np.array([0.95, 0.6, 0.25, 0.02], np.float32)
    size = config["img_resolution"]
    x_t = random.standard_normal((4, config["img_channels"], size, size)).astype(np.float32)
    count = network.config["label_dim"]
    labels = np.zeros((4, max(count, 1)), np.float32)
    for row, place in enumerate([0, 2, 1]):
        labels[row, place % max(count, 1)] = 1
    v = velocity(network, precond, x_t.astype(float), t.astype(float), labels.astype(float))
    outputs = dict(x_t=x_t, t=t, velocity=v, denoised=x_t - t[:, None, None, None] * v)
    if count:
        outputs["labels"] = labels
    return p.tensors, {name: np.asarray(value, np.float32) for name, value in outputs.items()}


def save_pt(path, tensors):
    """What torch.save writes of a training's state, without PyTorch: a pickle and the storages that it names."""
    torch, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")

    def rebuild(*arguments):
        raise NotImplementedError

    rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = rebuild
    torch.FloatStorage = type("FloatStorage", (), {"__module__": "torch"})
    sys.modules.update({"torch": torch, "torch._utils": utils})

    class Tensor:
        def __init__(self, key, value):
            self.key, self.value = key, np.ascontiguousarray(value, np.float32)

        def __reduce__(self):
            strides = tuple(stride // 4 for stride in self.value.strides)
            storage = Storage(("storage", torch.FloatStorage, self.key, "cpu", self.value.size))
            return rebuild, (storage, 0, self.value.shape, strides, False, collections.OrderedDict())

    class Storage:
        def __init__(self, identifier):
            self.identifier = identifier

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return value.identifier if isinstance(value, Storage) else None

    tensors = {name: Tensor(str(key), value) for key, (name, value) in enumerate(tensors.items())}
    data = io.BytesIO()
    Pickler(data, 2).dump({"step": 7, "model": collections.OrderedDict(tensors)})
    with zipfile.ZipFile(path, "w") as file:
        entries = {"data.pkl": data.getvalue(), "version": b"3\n"}
        entries.update({f"data/{t.key}": t.value.tobytes() for t in tensors.values()})
        for name, content in entries.items():
            file.writestr(zipfile.ZipInfo(f"archive/{name}"), content)


SONG = dict(img_resolution=8, img_channels=1, model_channels=8, channel_mult=[1, 2], num_blocks=1)
ADM = dict(SONG, model_type="DhariwalUNet", attn_resolutions=[4], head_channels=8)
NCSNPP = dict(embedding_type="fourier", channel_mult_noise=2, encoder_type="residual", resample_filter=[1, 3, 3, 1])
CASES = {
    "ddpmpp": (dict(SONG, attn_resolutions=[4], label_dim=3, augment_dim=2), "vp"),
    "ncsnpp": (dict(SONG, **NCSNPP), "ve"),
    "skip": (
        dict(SONG, channel_mult=[2, 1], encoder_type="skip", decoder_type="skip", resample_filter=[1, 5, 10, 10, 5, 1]),
        "edm",
    ),
    "adm": (dict(ADM, label_dim=3), "iddpm"),
}


def main():
    if len(sys.argv) == 3:
        with safe_open(sys.argv[1], "np") as file:
            tensors = {name.removeprefix("model."): file.get_tensor(name) for name in file.keys()}
            metadata = file.metadata()
        with safe_open(sys.argv[2], "np") as file:
            known = {name: file.get_tensor(name).astype(float) for name in file.keys()}
        p = lambda name, shape, value=None: tensors[name].astype(float)
        network = Network(json.loads(metadata["config"]), p)
        labels = known.get("labels", np.zeros((len(known["t"]), 1)))
        v = velocity(network, metadata["precond"], known["x_t"], known["t"], labels)
        error = np.abs(v - known["velocity"]).max((1, 2, 3)) / np.abs(known["velocity"]).max((1, 2, 3))
        print("largest relative errors of velocity", error)
        return
    folder = Path(__file__).parent
    for seed, (name, (config, precond)) in enumerate(CASES.items()):
        tensors, outputs = make(config, precond, 10 * seed)
        tensors = {"model." + name: np.ascontiguousarray(value) for name, value in tensors.items()}
        save_file(tensors, folder / f"{name}.safetensors", {"precond": precond, "config": json.dumps(config)})
        save_file(outputs, folder / f"{name}.io.safetensors")
        if name == "skip":
            save_pt(folder / "skip.pt", tensors)


if __name__ == "__main__":
    main()
