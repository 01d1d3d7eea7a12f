"""The same networks in plain PyTorch, timed from outside: a training step, or an embedding pass.

PyTorch runs in a separate process, and by another interpreter if wanted: neither library's threads,
memory settings or symbols touch the other's. This file is the program of that process, so it imports
nothing of the package. It reads one request a line and answers each with one line.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

VARIANTS = ("eager", "compiled")


class Peer:
    """The process that runs PyTorch, as a context.

    Args:
        python: interpreter that has PyTorch; None for this one.
    """

    def __init__(self, python: str | None = None) -> None:
        self._process = subprocess.Popen(
            [python or sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._ready: set[str] = set()

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(BrokenPipeError):  # what an ended process left unread
            self._requests.close()
        self._process.wait()
        self._answers.close()

    def prepare(self, variant: str, settings: Mapping) -> str:
        """Makes the network and calls it once.

        Args:
            variant: one of `VARIANTS`.
            settings: arguments of `make_call`.

        Returns:
            One line: on what it runs, or why it does not (see `ready`).
        """
        answer = self._request({"variant": variant, "settings": dict(settings)})
        if "error" in answer:
            return answer["error"]
        self._ready.add(variant)
        return answer["note"]

    def ready(self, variant: str) -> bool:
        """Whether the variant made its first call."""
        return variant in self._ready

    def call(self, variant: str) -> Callable[[], float]:
        """A function that makes one call and returns its value."""

        def call() -> float:
            answer = self._request({"variant": variant})
            if "error" in answer:
                raise ValueError(
                    f"PyTorch failed in the middle of the benchmark: {answer['error']}"
                )
            return answer["value"]

        return call

    def _request(self, request: dict) -> dict:
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        return json.loads(line) if line else {"error": "the process of PyTorch ended"}


def serve() -> None:
    """Answers the requests of `Peer` until the input ends."""
    out, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    calls = {}
    for line in sys.stdin:
        request = json.loads(line)
        variant = request["variant"]
        try:
            answer: dict[str, Any] = {}
            if "settings" in request:
                calls[variant], answer["note"] = make_call(variant, **request["settings"])
            answer["value"] = calls[variant]()
        except Exception as error:  # an absent PyTorch or compiler is an answer too
            text = (str(error).strip() or type(error).__name__).splitlines()[0]
            answer = {"error": f"not run: {text}"}
        print(json.dumps(answer), file=out, flush=True)


def make_call(
    variant: str,
    *,
    task: str,
    encoder: str,
    encoder_args: Mapping,
    comparator: str,
    head_args: Mapping,
    image_size: int,
    images: int,
    centre_ink: bool = False,
    dtype: str = "float32",
    device: str = "cpu",
) -> tuple[Callable[[], float], str]:
    """Makes a training step or an embedding pass, on a batch of noise that lies ready on the device.

    Args:
        variant: one of `VARIANTS`.
        task: `training`, or `embedding` in inference mode.
        encoder: `koch`, trained on pairs with SGD, or `residual`, trained on InfoNCE with AdamW.
        encoder_args: as of a config.
        comparator: of `residual`: `cosine` or `local`.
        head_args: as of a config.
        image_size: pixels.
        images: of the batch, an even number.
        centre_ink: of `residual`, as of a config.
        dtype: `float32`, or `bfloat16` by autocast.
        device: `cpu` or `cuda`.

    Returns:
        `call() -> value`, the loss or an embedding's first number, and one line on what it runs.

    Raises:
        ImportError: PyTorch is not installed.
        RuntimeError: it has no such device.
    """
    import torch

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    half = dtype == "bfloat16"
    layout = torch.channels_last if half or encoder != "koch" else torch.contiguous_format
    if encoder == "koch":
        network = koch_network(image_size, **encoder_args)
        loss_function: Callable[[Any, Any], Any] = pair_loss
    else:
        network = residual_network(image_size, centre_ink=centre_ink, **encoder_args)
        scale, reach = head_args.get("scale", 10.0), head_args.get("reach", 1)
        size = network.map_size if comparator == "local" else 1
        loss_function = info_nce(size, reach, scale)
    network = network.to(device).to(memory_format=layout)
    batch = torch.rand(images, 1, image_size, image_size, device=device).to(memory_format=layout)
    model = torch.compile(network) if variant == "compiled" else network
    if encoder == "koch":
        optimiser = torch.optim.SGD(network.parameters(), lr=1e-2, momentum=0.9, weight_decay=2e-5)
    else:
        optimiser = torch.optim.AdamW(network.parameters(), lr=4e-3, weight_decay=0.05)

    def step() -> float:
        optimiser.zero_grad()
        with torch.autocast(device, torch.bfloat16, enabled=half):
            loss = loss_function(network, model(batch))
        loss.backward()
        optimiser.step()
        return loss.item()  # waits for the device

    def embed() -> float:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
            return model(batch)[0, 0].item()

    if task == "embedding":
        network.eval()
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    note = f"torch {torch.__version__}, {where}, {torch.get_num_threads()} threads"
    return (embed if task == "embedding" else step), note


def koch_network(
    image_size: int, filters: Sequence[int], kernels: Sequence[int], units: int, **_: Any
) -> Any:
    """Koch's encoder on one-channel images, and the head that `pair_loss` applies.

    Returns:
        A `torch.nn.Module` with `convolutions`, `embedding` and `head`.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    class KochNet(nn.Module):
        def __init__(self) -> None:
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

        def forward(self, x: Any) -> Any:
            for convolution in self.convolutions[:-1]:
                x = F.max_pool2d(F.relu(convolution(x)), 2)
            x = F.relu(self.convolutions[-1](x))
            return torch.sigmoid(self.embedding(x.flatten(1)))

    return KochNet()


def pair_loss(network: Any, h: Any) -> Any:
    """Cross-entropy of pairs: image i with image i + B/2, the first half of the pairs same."""
    import torch

    first, second = h.chunk(2)
    logits = network.head(torch.abs(first - second)).squeeze(1)
    labels = (torch.arange(len(logits), device=h.device) < len(logits) // 2).float()
    return torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)


def residual_network(
    image_size: int,
    widths: Sequence[int],
    units: int,
    blocks: int = 1,
    stem: int = 32,
    stem_stride: int = 2,
    pools: int | None = None,
    local: bool = False,
    centre_ink: bool = False,
    **_: Any,
) -> Any:
    """The residual encoder on one-channel images, see `models.encoders.ResidualEncoder`.

    With `centre_ink` the images go through `centred` first.

    Returns:
        A `torch.nn.Module` with `stem`, `stem_norm`, `stages` (lists of blocks), `embedding`,
        `embedding_norm` and `map_size`, the side of the last map.
    """
    import torch.nn.functional as F
    from torch import nn

    class Block(nn.Module):
        def __init__(self, channels: int, width: int) -> None:
            super().__init__()
            self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            self.norm1 = nn.BatchNorm2d(width)
            self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
            self.norm2 = nn.BatchNorm2d(width)
            same = channels == width
            self.skip = nn.Identity() if same else nn.Conv2d(channels, width, 1, bias=False)

        def forward(self, x: Any) -> Any:
            y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
            return F.relu(self.skip(x) + y)

    class ResidualNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pools = len(widths) - 1 if pools is None else pools
            kernel, side = 2 * stem_stride + 1, -(-image_size // stem_stride)
            missing = (side - 1) * stem_stride + kernel - image_size
            self.padding = (missing // 2, missing - missing // 2) * 2
            self.stem = nn.Conv2d(1, stem, kernel, stem_stride, bias=False)
            self.stem_norm = nn.BatchNorm2d(stem)
            self.stages, channels = nn.ModuleList(), stem
            for s, width in enumerate(widths):
                side //= 2 if 0 < s <= self.pools else 1
                inputs = [channels] + [width] * (blocks - 1)
                self.stages.append(nn.Sequential(*(Block(c, width) for c in inputs)))
                channels = width
            self.map_size = side
            self.embedding = nn.Linear(channels * (1 if local else side**2), units, bias=False)
            self.embedding_norm = nn.BatchNorm1d(units)

        def forward(self, x: Any) -> Any:
            x = centred(x) if centre_ink else x
            x = F.relu(self.stem_norm(self.stem(F.pad(x, self.padding))))
            for s, stage in enumerate(self.stages):
                if 0 < s <= self.pools:
                    x = F.max_pool2d(x, 2)
                x = stage(x)
            x = x.permute(0, 2, 3, 1)  # as it lies in memory
            rows = x.reshape(-1, x.shape[-1]) if local else x.flatten(1)
            h = F.normalize(self.embedding_norm(self.embedding(rows)).float(), dim=-1)
            return h.reshape(len(x), -1)

    return ResidualNet()


def centred(images: Any) -> Any:
    """(B, 1, N, N) images with their ink in the middle, see `models.layers.centre_ink`."""
    import torch

    mass = images.detach().sum(1)  # (B, N, N)
    places = torch.arange(mass.shape[1], device=mass.device, dtype=mass.dtype)

    def picks(profile: Any) -> Any:
        total = profile.sum(1)
        way = (profile * (places - places[-1] / 2)).sum(1) / torch.where(total > 0, total, 1)
        way = torch.round(way + 1e-3)[:, None, None]
        return (places[:, None] + way == places).to(profile.dtype)

    rows, columns = picks(mass.sum(2)), picks(mass.sum(1))
    return (rows @ images[:, 0] @ columns.transpose(1, 2))[:, None]


def info_nce(size: int, reach: int, scale: float) -> Callable[[Any, Any], Any]:
    """Symmetric InfoNCE of image i with image i + B/2, against all others of the batch.

    Args:
        size: side of the map that is compared; 1 for one vector an image.
        reach: how far a place of the map may move, see `models.distances.local_similarity`.
        scale: of the similarities.
    """
    import torch
    import torch.nn.functional as F

    def inside(move: int) -> slice:
        return slice(max(0, -move), size - max(0, move))

    def similarity(first: Any, second: Any) -> Any:
        first, second = (
            h.reshape(len(h), size, size, -1).permute(1, 2, 0, 3) for h in (first, second)
        )
        pairs = first.shape[2], second.shape[2]
        best: tuple[list, list] = ([], [])
        moves = range(-min(reach, size - 1), min(reach, size - 1) + 1)
        for down in moves:
            for right in moves:
                here, there = (inside(down), inside(right)), (inside(-down), inside(-right))
                cosine = first[here] @ second[there].transpose(-1, -2)
                for maps, place in zip(best, (here, there), strict=True):
                    whole = cosine.new_full((size, size, *pairs), -torch.inf)
                    whole[place] = cosine
                    maps.append(whole)
        return sum(torch.stack(maps).amax(0).mean((0, 1)) for maps in best) / 2

    def loss(network: Any, h: Any) -> Any:
        first, second = h.chunk(2)
        logits = scale * (first @ second.T if size == 1 else similarity(first, second))
        target = torch.arange(len(logits), device=h.device)
        return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2

    return loss


if __name__ == "__main__":
    serve()
