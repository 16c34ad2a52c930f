"""BLIP-2 models with random weights, saved as transformers saves them: small, alive in every layer, with tokenizers.

Each function writes a folder (config.json, model.safetensors, tokenizer.json, preprocessor_config.json) and returns it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tiny_transformers import package

SIZE = 32
QUERIES = 4
_TEXT = (
    "a photo of the image shows describe this picture is are there how many what which colour red blue green yellow "
    "circle square star triangle two three above below left right question answer yes no in detail short caption write"
)
WORDS = _TEXT.split()
CORPUS = [f"{one} {two}. Question: {two} {one}? Answer: {one}" for one in WORDS for two in WORDS]


def opt(folder: Path, *, seed: int = 0) -> Path:
    """`Blip2ForConditionalGeneration` over an OPT, whose head is its token embedding and whose end is a line break."""
    import torch

    library, tokenizer = package(), _byte_level()
    text = library.OPTConfig(
        vocab_size=_rounded(tokenizer), hidden_size=24, word_embed_proj_dim=24, ffn_dim=40, num_hidden_layers=2,
        num_attention_heads=3, max_position_embeddings=80, pad_token_id=1, bos_token_id=2,
        eos_token_id=tokenizer.token_to_id("Ċ"), dropout=0.0,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = library.Blip2ForConditionalGeneration(_config(library, text, tokenizer.token_to_id("<image>")))
    _enliven(model)
    special = {"bos_token": "</s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    return _saved(model, tokenizer, special, folder)


def t5(folder: Path, *, tied: bool = False, seed: int = 0) -> Path:
    """`Blip2ForConditionalGeneration` over a T5, whose head is its own as Flan-T5's, or ``tied`` to the embedding."""
    import torch

    library, tokenizer = package(), _metaspace()
    text = library.T5Config(
        vocab_size=_rounded(tokenizer), d_model=24, d_kv=8, d_ff=40, num_layers=2, num_decoder_layers=2, num_heads=3,
        dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0, bos_token_id=1,
        feed_forward_proj="gated-gelu", tie_word_embeddings=tied,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = library.Blip2ForConditionalGeneration(_config(library, text, tokenizer.token_to_id("<image>")))
    if not tied:
        model.language_model.lm_head = torch.nn.Linear(text.d_model, text.vocab_size, bias=False)
    _enliven(model, ending=1.5 if tied else 4)
    special = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    folder = _saved(model, tokenizer, special, folder)
    if not tied:  # transformers 5 writes the flag as it forces it to be; a published Flan-T5 says false.
        _edited(folder / "config.json", lambda config: config["text_config"].update(tie_word_embeddings=False))
    return folder


def retrieval(folder: Path, *, seed: int = 0) -> Path:
    """`Blip2ForImageTextRetrieval`: its text side is the Q-Former itself, with a WordPiece tokenizer."""
    import torch

    library, tokenizer = package(), _word_pieces()
    torch.manual_seed(seed)
    config = _config(library, library.OPTConfig(hidden_size=24, num_hidden_layers=1), None, len_of(tokenizer))
    model = library.Blip2ForImageTextRetrieval(config)
    _enliven(model)
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
    return _saved(model, tokenizer, special, folder)


def len_of(tokenizer: Any) -> int:
    return int(tokenizer.get_vocab_size())


def _rounded(tokenizer: Any) -> int:
    """More embeddings than tokens, as published models have."""
    return -(-len_of(tokenizer) // 16) * 16 + 16


def _config(library: Any, text: Any, image_token: int | None, words: int = 100) -> Any:
    vision = library.Blip2VisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=SIZE,
        patch_size=8, attention_dropout=0.0,
    )  # fmt: skip
    qformer = library.Blip2QFormerConfig(
        vocab_size=words, hidden_size=24, num_hidden_layers=4, num_attention_heads=4, intermediate_size=40,
        encoder_hidden_size=32, max_position_embeddings=60, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
        use_qformer_text_input=image_token is None,
    )  # fmt: skip
    return library.Blip2Config(
        vision_config=vision, qformer_config=qformer, text_config=text, num_query_tokens=QUERIES,
        image_text_hidden_size=16, image_token_index=image_token,
    )  # fmt: skip


def _enliven(model: Any, ending: float = 4) -> None:
    """Weights large enough for every layer to matter: the configured 0.02 is next to nothing at this width.

    ``ending`` lengthens the end token's row of the head: else a random model hardly ever ends by itself.
    """
    import torch

    with torch.no_grad():
        for name, values in model.named_parameters():
            if values.dim() == 1:
                values.add_(torch.randn_like(values) * 0.1)
            else:
                scale = 0.5 if "embed" in name or "query_tokens" in name else 1.5 * values[0].numel() ** -0.5
                values.copy_(torch.randn_like(values) * scale)
        if hasattr(model, "language_model"):
            model.language_model.lm_head.weight[model.config.text_config.eos_token_id] *= ending
    model.eval()


def _saved(model: Any, tokenizer: Any, special: dict[str, str], folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    described = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 512, **special}
    processor = {
        "image_processor_type": "BlipImageProcessor", "do_resize": True, "size": {"height": SIZE, "width": SIZE},
        "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(described))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def _edited(path: Path, edit: Any) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document, indent=2))


def _byte_level() -> Any:
    """As OPT's: BPE over bytes, which puts ``</s>`` in front."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    tokenizer.add_special_tokens([AddedToken("<image>", normalized=False, special=True)])
    return tokenizer


def _metaspace() -> Any:
    """As T5's: Unigram over words and letters, which puts ``</s>`` behind."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = ["<pad>", "</s>", "<unk>"]
    pieces += [f"▁{word}" for word in (*WORDS, "Question", "Answer")]
    pieces += ["▁", *"abcdefghijklmnopqrstuvwxyz", *"ABCDEFGHIJKLMNOPQRSTUVWXYZ", *"0123456789", *".,:?!'-"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(len(piece) == 1)) for piece in pieces], unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(["<pad>", "</s>", "<unk>", AddedToken("<image>", normalized=False, special=True)])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def _word_pieces() -> Any:
    """As BERT's, which puts ``[CLS]`` in front and ``[SEP]`` behind."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,:?!'-"
    vocabulary = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *letters, *(f"##{one}" for one in letters)])
    numbered = {piece: number for number, piece in enumerate(vocabulary)}
    tokenizer = Tokenizer(models.WordPiece(numbered, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", numbered["[CLS]"]), ("[SEP]", numbered["[SEP]"])]
    )
    return tokenizer
