"""Detection transformers with random weights, saved as transformers saves them: small, and alive in every layer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SIZE = (160, 192)
KINDS = ("rt_detr_v2", "d_fine", "detr", "yolos", "vitpose")


def package() -> Any:
    """transformers, which is optional."""
    pytest.importorskip("transformers", reason="needs the optional package transformers")
    from edgekit.sources._pretrained import import_transformers

    return import_transformers(Path("tests"))


def _rt_detr_v2(library: Any) -> Any:
    backbone = library.RTDetrResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
        layer_type="basic",
    )
    return library.RTDetrV2ForObjectDetection(
        library.RTDetrV2Config(backbone_config=backbone, encoder_in_channels=[24, 32, 48], **_small())
    )


def _d_fine(library: Any) -> Any:
    backbone = library.HGNetV2Config(
        embedding_size=8,
        stem_channels=[3, 8, 16],
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        stage_in_channels=[16, 16, 24, 32],
        stage_mid_channels=[8, 8, 8, 8],
        stage_out_channels=[16, 24, 32, 48],
        stage_num_blocks=[1, 1, 1, 1],
        stage_numb_of_layers=[1, 1, 1, 1],
        out_features=["stage2", "stage3", "stage4"],
    )
    return library.DFineForObjectDetection(
        library.DFineConfig(backbone_config=backbone, encoder_in_channels=[24, 32, 48], **_small())
    )


def _small() -> dict[str, Any]:
    return {
        "encoder_hidden_dim": 32,
        "encoder_ffn_dim": 64,
        "encoder_attention_heads": 4,
        "d_model": 32,
        "num_queries": 20,
        "decoder_in_channels": [32, 32, 32],
        "decoder_ffn_dim": 64,
        "decoder_layers": 2,
        "decoder_attention_heads": 4,
        "num_labels": 5,
    }


def _detr(library: Any) -> Any:
    backbone = library.ResNetConfig(
        embedding_size=16,
        hidden_sizes=[16, 24, 32, 48],
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage4"],
    )
    return library.DetrForObjectDetection(
        library.DetrConfig(
            backbone_config=backbone,
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            d_model=32,
            encoder_layers=1,
            decoder_layers=1,
            encoder_ffn_dim=64,
            decoder_ffn_dim=64,
            encoder_attention_heads=4,
            decoder_attention_heads=4,
            num_queries=12,
            num_labels=5,
        )
    )


def _yolos(library: Any) -> Any:
    return library.YolosForObjectDetection(
        library.YolosConfig(
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            image_size=list(SIZE),
            patch_size=16,
            num_detection_tokens=12,
            num_labels=5,
        )
    )


def _vitpose(library: Any) -> Any:
    backbone = library.VitPoseBackboneConfig(
        image_size=[64, 48],
        patch_size=[16, 16],
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        out_indices=[2],
        out_features=["stage2"],
    )
    return library.VitPoseForPoseEstimation(library.VitPoseConfig(backbone_config=backbone, num_labels=17))


def write(kind: str, folder: Path) -> Path:
    """A folder with a model of this kind and, for detectors, its processor's configuration."""
    import torch

    library = package()
    torch.manual_seed(0)
    model = globals()[f"_{kind}"](library)
    with torch.no_grad():
        for values in model.parameters():  # several layers start at zero, which would hide what they do
            values.add_(torch.randn_like(values) * 0.15 * values.std(unbiased=False).clamp(min=0.3))
    model.eval().save_pretrained(folder)
    if kind != "vitpose":
        processor = {"size": {"height": SIZE[0], "width": SIZE[1]}, "do_normalize": False}
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder
