"""The model of the step benchmark in torch, compiled by torch.compile: prints one line of JSON. torch is not a dependency.

RMS norms without gains, rotary positions, ReLU, no biases; bfloat16 autocast, fused AdamW, gradients clipped to norm 1.
"""

import json
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F


def norm(x):
    return F.rms_norm(x, (x.shape[-1],), eps=1e-5)


class Block(nn.Module):
    def __init__(self, width, head_dim):
        super().__init__()
        self.head_dim = head_dim
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width, bias=False), nn.Linear(4 * width, width, bias=False)

    def forward(self, x, cos, sin):
        batch, seq, width = x.shape
        q, k, v = self.qkv(norm(x)).view(batch, seq, 3, -1, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k = (self.rotate(part, cos, sin) for part in (q, k))
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=1 / self.head_dim)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, seq, width))
        return x + self.down(F.relu(self.up(norm(x))))

    def rotate(self, x, cos, sin):
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class Model(nn.Module):
    def __init__(self, width, n_layer, head_dim, vocab, seq):
        super().__init__()
        self.embedding, self.unembedding = nn.Embedding(vocab, width), nn.Linear(width, vocab, bias=False)
        self.blocks = nn.ModuleList(Block(width, head_dim) for _ in range(n_layer))
        half = head_dim // 2
        angle = torch.arange(seq)[:, None] * 10_000.0 ** (-torch.arange(half) / half)
        self.register_buffer("cos", angle.cos())
        self.register_buffer("sin", angle.sin())

    def forward(self, tokens, targets):
        x = self.embedding(tokens)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        logits = self.unembedding(norm(x)).float()
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def main(*, width, n_layer, rows, seq, vocab, head_dim, compile):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high")
    torch.manual_seed(0)
    with torch.device(device):
        model = Model(width, n_layer, head_dim, vocab, seq)
        tokens = torch.randint(0, vocab, (rows, seq + 1))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), fused=device == "cuda")
    forward = torch.compile(model) if compile else model

    def step():
        with torch.autocast(device, dtype=torch.bfloat16):
            loss = forward(tokens[:, :-1], tokens[:, 1:])
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def seconds(calls):
        begin = time.perf_counter()
        for _ in range(calls):
            step()
        if device == "cuda":
            torch.cuda.synchronize()
        return (time.perf_counter() - begin) / calls

    compiling = seconds(2)
    seconds(3)
    times = [seconds(4) for _ in range(5)]
    print(json.dumps({"seconds": statistics.median(times), "compile s": 2 * compiling}))


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
