"""Loading a folder of Hugging Face transformers from that folder alone, whole, and as nothing but its own weights."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekit.errors import SourceError
from edgekit.sources._fit import refuse_misfit
from edgekit.sources._torchvision import import_torchvision

ATTENTION = (None, "eager", "sdpa")
"""Ways to compute attention that come with torch; others are fetched as compiled kernels, or by name from the hub."""

ADAPTER = "adapter_config.json"

_LOOPS = re.compile(r"(?!.*(?:channel|size|dim|proposal)).*(?:layer|depth|block|stage|level)")
"""Keys of a configuration whose numbers say how often something is built."""

_IDS = re.compile(r"_ids?$|label")
"""Keys whose numbers name something and size nothing."""

SLACK = 4
"""A network may hold this many times the numbers of its file, as tied tensors are saved once; more was never saved."""

FEWEST = 1 << 20
"""Numbers that every configuration may ask for, whatever its file holds."""


def import_transformers(folder: Path) -> Any:
    """The package, which also works beside a torchvision that was built for another torch.

    Raises:
        SourceError: it is not installed.
    """
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision(str(folder))  # or transformers would run into what is wrong with it
    try:
        import transformers
    except ImportError as error:
        raise SourceError(
            f"{folder}: needs the optional package transformers; pip install 'transformers>=5'"
        ) from error
    return transformers


def safetensors_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors in a file by name, without reading them.

    Raises:
        SourceError: damaged, or not a safetensors file.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise SourceError(f"{path}: damaged or not a safetensors file ({error}); save or download it again") from error


def load_pretrained(
    folder: Path, loader: str, config: Mapping[str, Any], sizes: Mapping[str, tuple[int, ...]], **options: Any
) -> Any:
    """The network of a folder, in eval mode, with every tensor from its safetensors.

    ``from_pretrained`` fills what the files lack with random numbers and only logs it. Tensors that the class ties to
    others, or declares to be of no account, are no lack.

    Args:
        folder: of `save_pretrained`.
        loader: the class of transformers.
        config: its configuration, as read.
        sizes: shapes of the tensors in its files, by name.
        options: further ones of ``from_pretrained``.

    Raises:
        SourceError: transformers is not installed or cannot load it, the configuration asks for something that is not
            in the folder, or the tensors do not fit.
    """
    kind = checked_class(folder, loader, config, sizes)
    given = {"local_files_only": True, "use_safetensors": True, "trust_remote_code": False, **options}
    try:
        model, info = kind.from_pretrained(folder, output_loading_info=True, ignore_mismatched_sizes=True, **given)
    except Exception as error:  # a damaged folder can make it raise anything
        raise SourceError(f"{folder}: transformers cannot load it: {reason(error)}") from error
    shapes = {name: (tuple(given), tuple(wanted)) for name, given, wanted in info["mismatched_keys"]}
    refuse_misfit(str(folder), info["missing_keys"], info["unexpected_keys"], shapes)
    if info["error_msgs"]:
        raise SourceError(f"{folder}: transformers cannot load it: {info['error_msgs'][0]}")
    return model.eval().requires_grad_(False)


def checked_class(folder: Path, loader: str, config: Mapping[str, Any], sizes: Mapping[str, tuple[int, ...]]) -> Any:
    """The class of transformers for a folder whose configuration asks for nothing that is not in it.

    Args:
        folder: of `save_pretrained`.
        loader: the name of the class.
        config: its configuration, as read.
        sizes: shapes of the tensors in its files, by name.

    Raises:
        SourceError: transformers is not installed or cannot build it, the weights are quantised, or the configuration
            asks for code from elsewhere or for a network that the files cannot fill.
    """
    _refuse_foreign(folder, config)
    _refuse_quantised(folder)
    transformers = import_transformers(folder)
    transformers.utils.logging.disable_progress_bar()
    _refuse_absurd(folder, config, sizes)
    try:
        kind = getattr(transformers, loader)
        _refuse_larger(folder, kind, sizes)
    except SourceError:
        raise
    except Exception as error:  # a damaged folder can make it raise anything
        raise SourceError(f"{folder}: transformers cannot load it: {reason(error)}") from error
    return kind


def reason(error: Exception) -> str:
    """The first line of an error that may have none."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _refuse_foreign(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse what would not be this folder's own float network.

    Raises:
        SourceError: an adapter of another model, quantised weights, or kernels from elsewhere.
    """
    path = folder / "config.json"
    if (folder / ADAPTER).exists():
        raise SourceError(f"{folder / ADAPTER}: an adapter of another model; merge the two and save the result")
    for key, value in _entries(config):
        if key == "quantization_config" and value:
            raise SourceError(f"{path}: {key}: the weights are quantised already; give the model in float")
        if key.strip("_").startswith("attn_implementation") and value not in ATTENTION:
            words = ", ".join(str(one) for one in ATTENTION if one)
            raise SourceError(f"{path}: {key} {str(value)[:60]!r} is not one of: {words}; remove it")


def _refuse_quantised(folder: Path) -> None:
    """Refuse integers and 8-bit floats in place of weights: without their scales they load as other numbers.

    Raises:
        SourceError: there are any.
    """
    from safetensors import SafetensorError, safe_open

    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                kinds = {name: str(file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise SourceError(f"{path}: damaged or not a safetensors file ({error}); save it again") from error
        coded = [name for name, kind in kinds.items() if re.match(r"[IUF][468](?:_|$)", kind)]
        if coded:
            raise SourceError(
                f"{path}: {coded[0]} is {kinds[coded[0]]}: the weights are quantised already; give the model in float"
            )


def _refuse_absurd(folder: Path, config: Mapping[str, Any], sizes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse numbers that the files cannot fill, before anything is built by them.

    Raises:
        SourceError: more layers than the file has tensors, or a size beyond all that it holds.
    """
    numbers, tensors = max(_total(sizes), FEWEST), max(len(sizes), 64)
    for key, value in _entries(config):
        values = value if isinstance(value, list) else [value]
        for number in values:
            if isinstance(number, bool) or not isinstance(number, int | float) or _IDS.search(key):
                continue
            most = tensors if _LOOPS.match(key) and isinstance(number, int) else numbers
            if not abs(number) <= most:
                raise SourceError(
                    f"{folder / 'config.json'}: {key} {number:g} is more than {len(sizes)} tensors of {_total(sizes)} "
                    "numbers can be for; take the configuration that was saved with the weights"
                )


def _refuse_larger(folder: Path, kind: Any, sizes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a configuration of a network that is many times its file, by building it without memory.

    Raises:
        SourceError: it is.
    """
    import torch

    config = kind.config_class.from_pretrained(folder, local_files_only=True)
    with torch.device("meta"):
        model = kind(config)
    wanted = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    if wanted > max(SLACK * _total(sizes), FEWEST):
        raise SourceError(
            f"{folder}: its configuration describes a network of {wanted:,} numbers, its weights are "
            f"{_total(sizes):,}; take the configuration that was saved with them"
        )


def _total(sizes: Mapping[str, tuple[int, ...]]) -> int:
    total = 0
    for shape in sizes.values():
        count = 1
        for length in shape:
            count *= length
        total += count
    return total


def _entries(config: Any) -> Iterator[tuple[str, Any]]:
    """Every key with its value, at any depth."""
    left = [config]
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            yield from value.items()
            left += value.values()
        elif isinstance(value, list):
            left += value
