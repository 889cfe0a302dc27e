from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from iris_cli.errors import CheckpointError
from iris_cli.nn.lpips import LPIPS, load_lpips


@pytest.fixture(scope="module")
def weights() -> dict[str, Tensor]:
    """All weights under our names, zeros in half precision but for two numbers."""
    weights = {name: torch.zeros(value.shape, dtype=torch.float16) for name, value in LPIPS().state_dict().items()}
    weights["net.slice3.12.bias"][5], weights["lin2.model.1.weight"][0, 7] = 0.5, 0.25
    return {name: value for name, value in weights.items() if "scaling_layer" not in name}


def torchvision(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    vgg = {f"features.{k.split('.', 2)[2]}": v for k, v in weights.items() if k.startswith("net")}
    return vgg | {"classifier.0.bias": torch.zeros(3)}


def heads(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name.startswith("lin")}


def write(directory: Path, kind: str, weights: dict[str, Tensor]) -> list[Path]:
    match kind:
        case "safetensors":
            save_file(weights, directory / "lpips.safetensors")
            return [directory / "lpips.safetensors"]
        case "published checkpoint":
            content = {f"tokenizer.lpips.{name}": value for name, value in weights.items()}
            torch.save(content | {"actor_critic.conv1.bias": torch.zeros(3)}, directory / "last.pt")
            return [directory / "last.pt"]
        case _:
            torch.save(torchvision(weights), directory / "vgg16-397923af.pth")
            torch.save(heads(weights), directory / "vgg.pth")
            return [directory] if kind == "directory" else sorted(directory.iterdir())


@pytest.mark.parametrize("kind", ["safetensors", "published checkpoint", "two files", "directory"])
def test_weights_load_from_every_format(kind: str, weights: dict[str, Tensor], tmp_path: Path) -> None:
    lpips = load_lpips(*write(tmp_path, kind, weights))

    state = lpips.state_dict()
    assert state["net.slice3.12.bias"][5] == 0.5
    assert state["lin2.model.1.weight"][0, 7] == 0.25
    assert all(value.dtype == torch.float32 for value in state.values())
    assert not any(p.requires_grad for p in lpips.parameters())


def test_missing_weights_are_named(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(torchvision(weights), tmp_path / "vgg16.pth")

    with pytest.raises(CheckpointError, match=r"missing \(5 of them, lin0.model.1.weight first\)"):
        load_lpips(tmp_path / "vgg16.pth")


def test_weights_of_another_shape_are_refused(weights: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(weights | {"lin0.model.1.weight": torch.zeros(1, 3, 1, 1)}, tmp_path / "lpips.pth")

    with pytest.raises(CheckpointError, match="other shapes"):
        load_lpips(tmp_path / "lpips.pth")


class Bomb:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("exploded"),)


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_garbage_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(bytes(range(256)) * 40)

    with pytest.raises(CheckpointError, match="not a readable file"):
        load_lpips(tmp_path / name)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"lin0.model.1.weight": Bomb()}, "weights.pth")

    with pytest.raises(CheckpointError, match="not a readable file"):
        load_lpips(Path("weights.pth"))

    assert not Path("exploded").exists()


@pytest.mark.parametrize("content", [[1, 2], {"other": torch.zeros(2)}])
def test_other_content_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")

    with pytest.raises(CheckpointError, match="iris fetch lpips"):
        load_lpips(tmp_path / "weights.pth")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.pth"):
        load_lpips(tmp_path / "none.pth")


def test_the_heads_drop_differences_in_training_mode_only() -> None:
    torch.manual_seed(0)
    lpips, x, y = LPIPS(), torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)

    trained, evaluated = ({lpips.train(mode)(x, y).item() for _ in range(3)} for mode in (True, False))

    assert len(trained) == 3
    assert len(evaluated) == 1


def test_equal_images_have_no_distance_and_a_finite_gradient() -> None:
    image = torch.zeros(1, 3, 32, 32, requires_grad=True)

    distance = LPIPS().eval()(image.detach(), image)
    distance.sum().backward()

    assert distance.item() == 0
    assert image.grad.isfinite().all()
