"""Token generation over a language graph: greedy, beams and sampling, exact to transformers' ``generate``.

    made = generate(graph, embeddings, mask, prompt_ids, GenerationOptions(beams=5), eos=[2], pad=1)
    for ids, score in zip(made.sequences, made.scores): ...

numpy alone is needed; an engine provides the `LanguageGraph`.
"""

from __future__ import annotations

from edgekit.runtimes.language.generated import Generated as Generated
from edgekit.runtimes.language.generated import Stopped as Stopped
from edgekit.runtimes.language.generation import generate as generate
from edgekit.runtimes.language.generation import stream as stream
from edgekit.runtimes.language.graph import LanguageGraph as LanguageGraph
from edgekit.runtimes.language.options import GenerationOptions as GenerationOptions
from edgekit.runtimes.language.options import generation_options as generation_options
