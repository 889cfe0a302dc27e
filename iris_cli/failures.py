"""Updates that came out as nan or infinite: what is kept of one, to look at it and to compute it again.

    failures/
      train-dynamics-000231.safetensors   batch.*, and weights.* of the agent as they were; random states as metadata
      train-dynamics-000231.json          the metrics of that update, and which of them are not finite

To compute it again: load the weights, make a `Progress.restored(failure.state, device)`, and hand both with the batch
to the `losses` of the stage (stages/train_*.py).
"""

import json
import math
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from iris_cli.errors import DAMAGE, RunError, reason_of
from iris_cli.files import write_atomically


class Failure(NamedTuple):
    """An update that was not finite.

    Attributes:
        stage, component: of what.
        update: number, counted over all training of the component, as in metrics.jsonl.
        metrics: of that update.
        batch: field -> tensor, as it was drawn.
        weights: of the whole agent, before the optimizer step that was not taken.
        state: of the random streams, when the batch had been drawn: `Progress.state()`.
    """

    stage: str
    component: str
    update: int
    metrics: dict[str, float]
    batch: dict[str, Tensor]
    weights: dict[str, Tensor]
    state: dict[str, Any]


def write_failure(directory: Path, failure: Failure) -> Path:
    """Write the two files of a failure; the path of the tensors.

    Raises:
        RunError: if they cannot be written.
    """
    path = directory / f"{failure.stage}-{failure.update:06d}.safetensors"
    plain = {name: value if math.isfinite(value) else str(value) for name, value in failure.metrics.items()}
    facts = {
        "stage": failure.stage, "component": failure.component, "update": failure.update, "metrics": plain,
    }  # fmt: skip
    tensors = {f"batch.{name}": tensor for name, tensor in failure.batch.items()}
    tensors |= {f"weights.{name}": tensor for name, tensor in failure.weights.items()}
    broken = [name for name, value in plain.items() if isinstance(value, str)]
    try:
        directory.mkdir(exist_ok=True)
        save_file(
            {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path,
            metadata={"facts": json.dumps(facts), "state": json.dumps(failure.state)},
        )  # fmt: skip
        write_atomically(path.with_suffix(".json"), json.dumps({**facts, "not_finite": broken}, indent=1) + "\n")
    except (OSError, SafetensorError) as error:
        raise RunError(f"the batch cannot be written ({reason_of(error)})", where=path) from None
    return path


def read_failure(path: Path) -> Failure:
    """Read what `write_failure` wrote, onto the CPU.

    Raises:
        RunError: if the file is missing, damaged or something else.
    """
    try:
        with safe_open(path, framework="pt") as file:
            facts, state = json.loads(file.metadata()["facts"]), json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
        metrics = {name: float(value) for name, value in facts.pop("metrics").items()}
    except (*DAMAGE, SafetensorError) as error:
        raise RunError(f"the file cannot be read as a failed update ({reason_of(error)})", where=path) from None
    batch, weights = (
        {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}
        for start in ("batch.", "weights.")
    )
    return Failure(**facts, metrics=metrics, batch=batch, weights=weights, state=state)
