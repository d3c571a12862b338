#!/usr/bin/env python3
"""Golden numbers of LPIPS for the test in trainer/src/loss/lpips.rs.

    pip install torch torchvision lpips
    python trainer/tools/lpips_golden.py

Weights are numbers of a hash, the same here and in the test: the real ones are not needed, and too large to commit.
"""

import lpips
import numpy as np
import torch


def uniform(count, stream):
    """Numbers in [0, 1) by place: 24 bits of a mixed 32-bit word."""
    x = (np.arange(count, dtype=np.uint64) + np.uint64(stream * 0x9E3779B1)) & np.uint64(0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> np.uint64(shift))) * np.uint64(factor)) & np.uint64(0xFFFFFFFF)
    x ^= x >> np.uint64(16)
    return (x >> np.uint64(8)).astype(np.float32) / np.float32(1 << 24)


def tensor(shape, stream, low, high):
    values = uniform(int(np.prod(shape)), stream)
    values = np.float32(low) + np.float32(high - low) * values
    return torch.from_numpy(values.reshape(shape))


def main():
    torch.manual_seed(0)
    network = lpips.LPIPS(net="vgg", pretrained=False, pnet_rand=True, verbose=False).eval()
    convolutions = [m for m in network.net.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 13
    stream = 0
    with torch.no_grad():
        for convolution in convolutions:
            bound = float(np.float32(np.sqrt(6.0 / (convolution.in_channels * 9))))
            convolution.weight.copy_(tensor(tuple(convolution.weight.shape), stream, -bound, bound))
            convolution.bias.copy_(tensor(tuple(convolution.bias.shape), stream + 1, -0.1, 0.1))
            stream += 2
        for index in range(5):
            head = getattr(network, f"lin{index}").model[1]
            head.weight.copy_(tensor(tuple(head.weight.shape), stream, 0.0, 1.0))
            stream += 1
    a = tensor((2, 3, 35, 32), 100, -1.0, 1.0)
    # The second pair differs less than the first.
    b = a + tensor((2, 3, 35, 32), 101, -1.0, 1.0) * torch.tensor([1.0, 0.1]).reshape(2, 1, 1, 1)
    b.requires_grad_()
    distance = network(b, a).flatten()
    distance.sum().backward()
    print("colour:  ", [f"{x:.9g}" for x in distance.tolist()])
    print("gradient:", f"{b.grad.abs().sum().item():.9g}", [f"{x:.9g}" for x in b.grad.flatten()[:4].tolist()])
    grey = lambda x: x[:, :1].repeat(1, 3, 1, 1)
    print("grey:    ", [f"{x:.9g}" for x in network(grey(b), grey(a)).flatten().tolist()])


main()
