"""Koch's network and its training step in plain PyTorch, timed from outside.

PyTorch runs in a process of its own: neither library's threads, memory settings or symbols touch the
other's. The process reads one request a line and answers with one line.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Sequence

VARIANTS = ("eager", "compiled")


class Peer:
    """The process that runs PyTorch, as a context."""

    def __init__(self):
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._ready: set[str] = set()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_):
        with contextlib.suppress(BrokenPipeError):  # what an ended process left unread
            self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def prepare(self, variant: str, **settings) -> str:
        """Makes the network and takes a first step.

        Args:
            variant: one of `VARIANTS`.
            **settings: of `make_step`.

        Returns:
            One line: on what it runs, or why it does not (see `ready`).
        """
        answer = self._ask({"variant": variant, "settings": settings})
        if "error" in answer:
            return answer["error"]
        self._ready.add(variant)
        return answer["note"]

    def ready(self, variant: str) -> bool:
        """Whether the variant took its first step."""
        return variant in self._ready

    def call(self, variant: str) -> Callable[[], float]:
        """A call that takes one training step and returns its loss."""

        def step() -> float:
            answer = self._ask({"variant": variant})
            if "error" in answer:
                raise ValueError(
                    f"PyTorch failed in the middle of the benchmark: {answer['error']}"
                )
            return answer["loss"]

        return step

    def _ask(self, request: dict) -> dict:
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"error": "the process of PyTorch ended"}


def serve() -> None:
    """Answers the requests of `Peer` until the input ends."""
    out, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    steps = {}
    for line in sys.stdin:
        request = json.loads(line)
        variant = request["variant"]
        try:
            answer = {}
            if "settings" in request:
                steps[variant], answer["note"] = make_step(variant, **request["settings"])
            answer["loss"] = steps[variant]()
        except Exception as error:  # an absent PyTorch or compiler is an answer too
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            answer = {"error": f"not run: {text}"}
        print(json.dumps(answer), file=out, flush=True)


def make_step(
    variant: str,
    *,
    pairs: int,
    image_size: int,
    filters: Sequence[int],
    kernels: Sequence[int],
    units: int,
    dtype: str,
    device: str = "cpu",
) -> tuple[Callable[[], float], str]:
    """Makes a training step on a batch of noise that lies ready on the device.

    Args:
        variant: one of `VARIANTS`.
        pairs: of the batch.
        image_size: pixels.
        filters: channels of the convolutions.
        kernels: sides of their kernels, pixels.
        units: size of the embedding.
        dtype: `float32`, or `bfloat16` by autocast and channels-last.
        device: `cpu` or `cuda`.

    Returns:
        `step() -> loss`, and one line on what it runs.

    Raises:
        ImportError: PyTorch is not installed.
        RuntimeError: it has no such device.
    """
    import torch
    from torch import nn

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    network = build_network(image_size, filters, kernels, units).to(device)
    first, second = torch.rand(2, pairs, 1, image_size, image_size, device=device)
    half = dtype == "bfloat16"
    if half:
        network = network.to(memory_format=torch.channels_last)
        first, second = (x.to(memory_format=torch.channels_last) for x in (first, second))
    labels = (torch.arange(pairs, device=device) < pairs // 2).float()
    loss_function = nn.BCEWithLogitsLoss()
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.9, weight_decay=2e-5)
    model = torch.compile(network) if variant == "compiled" else network

    def step() -> float:
        optimiser.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = loss_function(model(first, second), labels)
        loss.backward()
        optimiser.step()
        return loss.item()  # waits for the device

    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    return step, f"torch {torch.__version__}, {where}, {torch.get_num_threads()} threads"


def build_network(image_size: int, filters: Sequence[int], kernels: Sequence[int], units: int):
    """Koch's network on one-channel images: `forward(first, second)` gives (B,) logits.

    Args:
        image_size: pixels.
        filters: channels of the convolutions.
        kernels: sides of their kernels, pixels.
        units: size of the embedding.

    Returns:
        A `torch.nn.Module` with `convolutions`, `embedding` and `head`.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    class KochNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolutions = nn.ModuleList()
            channels, side = 1, image_size
            for i, (features, kernel) in enumerate(zip(filters, kernels, strict=True)):
                self.convolutions.append(nn.Conv2d(channels, features, kernel))
                channels, side = features, side - kernel + 1
                if i < len(filters) - 1:
                    side //= 2
            self.embedding = nn.Linear(channels * side * side, units)
            self.head = nn.Linear(units, 1)

        def embed(self, x):
            for convolution in self.convolutions[:-1]:
                x = F.max_pool2d(F.relu(convolution(x)), 2)
            x = F.relu(self.convolutions[-1](x))
            return torch.sigmoid(self.embedding(x.flatten(1)))

        def forward(self, first, second):
            h1, h2 = self.embed(torch.cat([first, second])).chunk(2)
            return self.head(torch.abs(h1 - h2)).squeeze(1)

    return KochNet()
