"""Generate tokens with a language graph: the search that the options ask for, at once or token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from edgekit.arrays import Floats, Ints
from edgekit.errors import UsageError
from edgekit.runtimes.language.beams import beam_search
from edgekit.runtimes.language.generated import Generated, Stopped
from edgekit.runtimes.language.graph import LanguageGraph
from edgekit.runtimes.language.options import GenerationOptions
from edgekit.runtimes.language.prompt import prompt_of
from edgekit.runtimes.language.sampling import Sampler
from edgekit.runtimes.language.stepwise import Choose, collected, greedy, steps


def generate(
    graph: LanguageGraph,
    embeddings: Floats,
    mask: Ints,
    prompt_ids: Ints,
    options: GenerationOptions,
    *,
    eos: Sequence[int],
    pad: int,
    stopped: Stopped | None = None,
) -> Generated:
    """Generate for a batch of prompts: the tokens of transformers' ``generate``, for the same logits.

    Args:
        graph: what gives the logits.
        embeddings: float32 (rows, tokens, width), padded on the left for a decoder-only model.
        mask: (rows, tokens), 1 where there is a token and 0 where there is padding.
        prompt_ids: what the penalties read: of a decoder-only model the ids (rows, tokens) behind the embeddings, with
            the image's placeholders; of an encoder-decoder model (rows, 1), the token its decoder starts with.
        options: which search, and how.
        eos: the tokens that end a sequence.
        pad: the token that fills up finished rows.
        stopped: further reasons to end a sequence, such as the stop texts that the options carry.

    Returns:
        ``options.returned`` sequences for each row of the prompt, without the prompt.

    Raises:
        UsageError: a prompt whose parts do not fit.
        EngineError: the graph gave something unusable.
    """
    prompt = prompt_of(embeddings, mask, prompt_ids, eos, pad)
    if options.beams > 1:
        return beam_search(graph, prompt, options, stopped)
    made = steps(graph, prompt, options, _choice(options, len(prompt.ids)), stopped)
    return collected(made, options.length_penalty)


def stream(
    graph: LanguageGraph,
    embeddings: Floats,
    mask: Ints,
    prompt_ids: Ints,
    options: GenerationOptions,
    *,
    eos: Sequence[int],
    pad: int,
) -> Iterator[int]:
    """The tokens of `generate` for one prompt, each as soon as it is chosen; the end token is the last.

    Who stops asking ends the generation, at a stop text for instance. Arguments as `generate`.

    Raises:
        UsageError: several prompts, beams or sequences: no token of theirs is final before the end.
        EngineError: the graph gave something unusable.
    """
    if options.beams > 1:
        raise UsageError(f"beams={options.beams} cannot be streamed: no token is final before the end; take beams=1")
    if options.returned > 1 or len(prompt_ids) > 1:
        raise UsageError(
            f"{len(prompt_ids)} prompt(s) with returned={options.returned} cannot be streamed: "
            "stream one prompt, with returned=1"
        )
    prompt = prompt_of(embeddings, mask, prompt_ids, eos, pad)
    return (int(step.tokens[0]) for step in steps(graph, prompt, options, _choice(options, 1)))


def _choice(options: GenerationOptions, prompts: int) -> Choose:
    return Sampler(options, prompts * options.returned) if options.sample else greedy
