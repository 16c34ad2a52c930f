"""The small BLIP-2 models of shapes before training: configurations, and tokenizers like those of OPT, T5 and BERT."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from shapes_blip2_data import CELLS, PATCH
from torch import Tensor, nn

from edgekit.shapes.talk import SIZE

try:
    import torchvision  # noqa: F401
except ImportError:
    pass
except RuntimeError:  # It was built for another torch; transformers, which can do without, would run into it too.
    import transformers.utils

    for _module in (transformers.utils, transformers.utils.import_utils):
        for _name in ("is_torchvision_available", "is_torchvision_v2_available"):
            setattr(_module, _name, lambda: False)

from transformers import (
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2ForImageTextRetrieval,
    Blip2Processor,
    Blip2QFormerConfig,
    Blip2VisionConfig,
    OPTConfig,
    T5Config,
)
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

WIDTH, HEADS, FEED_FORWARD = 128, 4, 512
WIDE = {"hidden_size": 768, "word_embed_proj_dim": 768, "num_attention_heads": 12, "ffn_dim": 3072}
"""Blocks as OPT-125m has them."""

WIDE_LAYERS, WIDE_DEVIATION = 4, 0.02
QUERIES = CELLS * CELLS

VOCABULARY = {"opt": 608, "t5": 160, "retrieval": 160}


# ------------------------------------------------------------------------------------------------------ tokenizers


def opt_tokenizer(texts: list[str]) -> Any:
    """A byte-level BPE as OPT has it: </s> begins and ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=607,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    _template(tokenizer, "</s> $A", ["</s>"])
    names = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "</s>"}
    return _fast(tokenizer, "left", names)


def t5_tokenizer(texts: list[str]) -> Any:
    """A Unigram with word marks as T5 has it: whole words, else characters; </s> ends a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    split = pre_tokenizers.Metaspace()
    words = sorted({piece for text in texts for word in text.split() for piece, _ in split.pre_tokenize_str(word)})
    # Punctuation stays a piece of its own, or every word would be there twice, with and without it.
    words = [*sorted({word.rstrip("?:,") for word in words} - {"▁"}), "?", ":", ","]
    singles = sorted({letter for word in words for letter in word} - set(words))
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((word, -1.0) for word in words)]
    vocabulary += [(letter, -10.0) for letter in singles]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=2, byte_fallback=False))
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.Metaspace()
    _template(tokenizer, "$A </s>", ["</s>"])
    return _fast(tokenizer, "right", {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"})


def bert_tokenizer(texts: list[str]) -> Any:
    """A WordPiece in lower case as BERT has it: [CLS] begins and [SEP] ends a text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

    split = pre_tokenizers.BertPreTokenizer()
    words = sorted({piece for text in texts for piece, _ in split.pre_tokenize_str(text.lower())})
    letters = sorted({letter for word in words for letter in word})
    pieces = [*words, *(one for one in letters if one not in words), *(f"##{one}" for one in letters)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    vocabulary = {piece: index for index, piece in enumerate([*special, *pieces])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.WordPiece()
    _template(tokenizer, "[CLS] $A [SEP]", ["[CLS]", "[SEP]"])
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return _fast(tokenizer, "right", dict(zip(names, special, strict=True)))


def _template(tokenizer: Any, template: str, names: list[str]) -> None:
    from tokenizers.processors import TemplateProcessing

    pairs = [(name, tokenizer.token_to_id(name)) for name in names]
    tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=pairs)


def _fast(tokenizer: Any, side: str, names: dict[str, str]) -> Any:
    """The tokenizer for transformers, with <image> as its last token."""
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, padding_side=side, clean_up_tokenization_spaces=False, **names
    )
    fast.add_tokens(["<image>"], special_tokens=True)
    return fast


# ------------------------------------------------------------------------------------------------------ models


def configuration(kind: str, image_token: int) -> Blip2Config:
    """The configuration of a model: the same tower for all, and a Q-Former that reads text for retrieval only."""
    vision = Blip2VisionConfig(
        hidden_size=WIDTH,
        intermediate_size=FEED_FORWARD,
        num_hidden_layers=4,
        num_attention_heads=HEADS,
        image_size=SIZE[0],
        patch_size=PATCH,
        initializer_range=0.05,
    )
    qformer = Blip2QFormerConfig(
        vocab_size=VOCABULARY[kind],
        hidden_size=WIDTH,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        intermediate_size=FEED_FORWARD,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        max_position_embeddings=128,
        encoder_hidden_size=WIDTH,
        initializer_range=0.05,
        use_qformer_text_input=kind == "retrieval",
    )
    text: OPTConfig | T5Config = OPTConfig(
        vocab_size=VOCABULARY["opt"],
        hidden_size=WIDTH,
        word_embed_proj_dim=WIDTH,
        ffn_dim=FEED_FORWARD,
        num_hidden_layers=3,
        num_attention_heads=HEADS,
        max_position_embeddings=256,
        dropout=0.0,
        init_std=0.05,
        bos_token_id=2,
        eos_token_id=2,
        pad_token_id=1,
    )
    if kind == "t5":
        text = T5Config(
            vocab_size=VOCABULARY["t5"],
            d_model=WIDTH,
            d_kv=WIDTH // HEADS,
            d_ff=384,
            num_layers=3,
            num_heads=HEADS,
            dropout_rate=0.0,
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
        )
    return Blip2Config(
        vision_config=vision,
        qformer_config=qformer,
        text_config=text,
        num_query_tokens=QUERIES,
        image_text_hidden_size=WIDTH,
        image_token_index=image_token,
    )


def untied(model: Any) -> None:
    """Give T5 a head of its own, as Flan-T5 has; its class ties heads whatever the configuration says."""
    language = model.language_model
    language.config.tie_word_embeddings = False
    language.lm_head.weight = nn.Parameter(torch.randn(language.config.vocab_size, WIDTH) * 0.05)


def each_at_its_place(model: Any) -> None:
    """Start every query at the place of one patch: the class's own zeros would all stay the same query.

    Places are orthogonal; queries are the same vectors, and keys are made as queries are, so that each looks at its own
    patch first. From noise, looking somewhere in particular is learnt very late.
    """
    places = nn.init.orthogonal_(torch.empty(QUERIES + 1, WIDTH)) * WIDTH**0.5
    model.vision_model.embeddings.position_embedding.data.copy_(places[None])
    model.query_tokens.data.copy_(places[None, 1:])
    for layer in model.qformer.encoder.layer:
        if layer.has_cross_attention:
            attention = layer.crossattention.attention
            nn.init.orthogonal_(attention.query.weight, gain=1.5)
            attention.key.weight.data.copy_(attention.query.weight)


def widened(start: Path) -> tuple[Any, Blip2Processor]:
    """A trained model with OPT whose language part is made as wide as OPT-125m's, and says the same.

    Its tower and Q-Former are frozen; its tokens stay.
    """
    trained = Blip2ForConditionalGeneration.from_pretrained(start, dtype=torch.float32)
    config = copy.deepcopy(trained.config)
    for name, value in (WIDE | {"num_hidden_layers": WIDE_LAYERS, "init_std": WIDE_DEVIATION}).items():
        setattr(config.text_config, name, value)
    model = Blip2ForConditionalGeneration(config)
    model.load_state_dict(wide_weights(trained, model))
    for part in (model.vision_model, model.qformer):
        part.requires_grad_(False)
    model.query_tokens.requires_grad_(False)
    return model, Blip2Processor.from_pretrained(start)


def wide_weights(trained: Any, model: Any) -> dict[str, Tensor]:
    """Weights of a wider model that give the trained one's results (Net2Net, Chen et al. 2016, arXiv:1511.05641).

    Every channel is there several times, and every weight that reads it is shared out among its copies, with noise that
    adds up to nothing over them: by the noise they learn different things. Layers that are too many add nothing.
    """
    before, after = trained.config.text_config, model.config.text_config
    channel = torch.arange(after.hidden_size) % before.hidden_size
    neuron = torch.arange(after.ffn_dim) % before.ffn_dim
    head, number = (torch.arange(count)[:, None] for count in (after.num_attention_heads, before.num_attention_heads))
    wide, narrow = after.hidden_size // len(head), before.hidden_size // len(number)
    value = (head % len(number) * narrow + torch.arange(wide) % narrow).flatten()
    rows = {"q_proj": value, "k_proj": value, "v_proj": value, "fc1": neuron}
    columns = dict.fromkeys(("q_proj", "k_proj", "v_proj", "fc1"), channel) | {"out_proj": value, "fc2": neuron}
    made: dict[str, Tensor] = {}
    for name, weight in model.state_dict().items():
        layer = name.rpartition(".")[0].rpartition(".")[2]
        if not name.startswith("language_"):
            made[name] = trained.state_dict()[name]
        elif name not in trained.state_dict():
            made[name] = torch.zeros_like(weight) if layer in ("out_proj", "fc2") else weight
        elif layer in ("embed_tokens", "embed_positions", "lm_head"):
            made[name] = trained.state_dict()[name][:, channel]
        else:
            wider = trained.state_dict()[name][rows.get(layer, channel)]
            made[name] = shared_out(wider, columns[layer]) if name.endswith("weight") and layer in columns else wider
        if layer == "q_proj" and name in trained.state_dict():
            made[name] *= (wide / narrow) ** -0.5  # Its product with keys adds up copies and is divided by a root.
        if name.startswith("language_model.model.decoder.final_layer_norm"):
            made[name] *= before.hidden_size / after.hidden_size  # The head adds up copies.
    return made


def shared_out(weight: Tensor, columns: Tensor) -> Tensor:
    """A weight (outputs, inputs) over copies of its inputs: ``columns`` says which input each is a copy of."""
    copies = len(columns) // weight.shape[1]
    order = torch.argsort(columns, stable=True)
    noise = torch.randn(len(weight), weight.shape[1], copies) * WIDE_DEVIATION
    given = weight[:, :, None] / copies + noise - noise.mean(-1, keepdim=True)
    made = torch.empty(len(weight), len(columns))
    made[:, order] = given.flatten(1)
    return made


def built(kind: str, texts: list[str]) -> tuple[Any, Blip2Processor]:
    """An untrained model and its processor."""
    maker = {"opt": opt_tokenizer, "t5": t5_tokenizer, "retrieval": bert_tokenizer}[kind]
    tokenizer = maker(texts)
    if len(tokenizer) > VOCABULARY[kind]:
        raise SystemExit(f"the vocabulary of {kind} has {len(tokenizer)} entries; VOCABULARY allows {VOCABULARY[kind]}")
    config = configuration(kind, tokenizer.convert_tokens_to_ids("<image>"))
    model_class = Blip2ForImageTextRetrieval if kind == "retrieval" else Blip2ForConditionalGeneration
    model = model_class(config)
    each_at_its_place(model)
    if kind == "t5":
        untied(model)
    images = BlipImageProcessorPil(size={"height": SIZE[0], "width": SIZE[1]})
    return model, Blip2Processor(images, tokenizer, num_query_tokens=QUERIES)


def written(model: Any, processor: Blip2Processor, folder: Path) -> None:
    """Write a folder as transformers reads it, weights in float16."""
    folder.mkdir(parents=True, exist_ok=True)
    half = copy.deepcopy(model).half()
    if hasattr(half, "language_model"):
        half.generation_config = copy.deepcopy(half.language_model.generation_config)
        half.generation_config.max_new_tokens = 24
    half.save_pretrained(folder)
    processor.save_pretrained(folder)
    processor.image_processor.save_pretrained(folder)  # also as published checkpoints have it, in a file of its own
