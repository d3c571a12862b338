"""PyTorch's contestant of `cargo xtask bench-training`: the same DDPM++, the same step of a training.

python training.py MODEL THREADS BATCH OUTPUT; src/protocol.rs says how a contestant talks to the benchmark. A run is one step:
loss, gradient, its norm clipped to 1, AdamW and the moving average. BATCH has pictures x_t, velocities v and times t; OUTPUT
gets loss and norm of the gradient of the first two steps.
"""

import json
import math
import sys
import time

import numpy
import torch
from safetensors import safe_open
from torch.nn import functional as F


class Network:
    """DDPM++ of a student that is told of s by "tied-mean"; parameters have TraFlow's names."""

    def __init__(self, path):
        with safe_open(path, "pt") as file:
            self.config = json.loads(file.metadata()["network"])
            parameters = {name: file.get_tensor(name).float() for name in file.keys()}
        self.p = {name: tensor.requires_grad_() for name, tensor in parameters.items()}
        assert (self.config["architecture"], self.config["s_conditioning"]) == ("ddpmpp", "tied-mean")

    def linear(self, name, x):
        weight = self.p[f"{name}.weight"]
        return F.linear(x, weight.flatten(1), self.p[f"{name}.bias"])

    def conv(self, name, x):
        weight = self.p[f"{name}.weight"]
        return F.conv2d(x, weight, self.p[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def norm(self, name, x):
        groups = min(32, x.shape[1] // 4)
        return F.group_norm(x, groups, self.p[f"{name}.weight"], self.p[f"{name}.bias"], 1e-6)

    def embedding(self, scope, time):
        half = self.config["base"] // 2
        frequencies = 1e4 ** (-torch.arange(half, dtype=torch.float64) / (half - 1))
        angle = 999 * time[:, None] * frequencies.float()
        e = F.silu(self.linear(f"{scope}map_layer0", torch.cat([angle.sin(), angle.cos()], 1)))
        return F.silu(self.linear(f"{scope}map_layer1", e))

    def block(self, name, x, e, resample=None, attention=False):
        h = F.silu(self.norm(f"{name}.norm0", x))
        if resample:
            h, x = resample(h), resample(x)
        h = self.conv(f"{name}.conv0", h) + self.linear(f"{name}.affine", e)[:, :, None, None]
        h = self.conv(f"{name}.conv1", F.silu(self.norm(f"{name}.norm1", h)))
        if f"{name}.skip.weight" in self.p:
            x = self.conv(f"{name}.skip", x)
        x = (h + x) * math.sqrt(0.5)
        if attention:
            qkv = self.conv(f"{name}.qkv", self.norm(f"{name}.norm2", x)).flatten(2).transpose(1, 2)
            h = F.scaled_dot_product_attention(*qkv[:, None].chunk(3, -1))[:, 0]
            x = (self.conv(f"{name}.proj", h.transpose(1, 2).reshape(x.shape)) + x) * math.sqrt(0.5)
        return x

    def __call__(self, x, t, s):
        config = self.config
        side, levels = config["image"][1], len(config["mult"])
        name = lambda part, level, what: f"{part}.{side >> level}x{side >> level}_{what}"
        attends = lambda level: side >> level in config["attention"]
        halve = lambda x: F.avg_pool2d(x, 2)
        double = lambda x: F.interpolate(x, scale_factor=2, mode="nearest")
        e = (self.embedding("", t) + self.embedding("to.", s)) / 2
        x = self.conv(name("enc", 0, "conv"), x)
        skips = [x]
        for level in range(levels):
            if level:
                x = self.block(name("enc", level, "down"), x, e, halve)
                skips.append(x)
            for index in range(config["blocks"]):
                x = self.block(name("enc", level, f"block{index}"), x, e, attention=attends(level))
                skips.append(x)
        x = self.block(name("dec", levels - 1, "in0"), x, e, attention=True)
        x = self.block(name("dec", levels - 1, "in1"), x, e)
        for level in reversed(range(levels)):
            if level + 1 < levels:
                x = self.block(name("dec", level, "up"), x, e, double)
            for index in range(config["blocks"] + 1):
                attention = index == config["blocks"] and attends(level)
                x = torch.cat([x, skips.pop()], 1)
                x = self.block(name("dec", level, f"block{index}"), x, e, attention=attention)
        return self.conv(name("dec", 0, "aux_conv"), F.silu(self.norm(name("dec", 0, "aux_norm"), x)))


def main():
    model, threads, batch, output = sys.argv[1:]
    torch.set_num_threads(int(threads))
    network = Network(model)
    shape = network.config["image"]
    numbers = torch.from_numpy(numpy.fromfile(batch, "<f4"))
    elements = math.prod(shape)
    n = len(numbers) // (2 * elements + 1)
    x, v = (part.reshape(n, *shape) for part in numbers[: 2 * n * elements].chunk(2))
    t = numbers[2 * n * elements :]
    parameters = list(network.p.values())
    averages = [parameter.detach().clone() for parameter in parameters]
    optimiser = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.01, fused=True)

    def step():
        optimiser.zero_grad()
        loss = (network(x, t, t) - v).square().mean()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimiser.step()
        with torch.no_grad():
            torch._foreach_lerp_(averages, parameters, 1 - 0.999)
        return loss.item(), norm.item()

    numpy.array([*step(), *step()], "<f4").tofile(output)
    print("ready", flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter_ns()
            step()
            times.append(time.perf_counter_ns() - start)
        print(*times, flush=True)


main()
