"""Token generation over a language graph: greedy, beams and sampling, exact to transformers' ``generate``.

    made = generate(graph, embeddings, mask, prompt_ids, GenerationOptions(beams=5), eos=[2], pad=1)
    for ids, score in zip(made.sequences, made.scores): ...

numpy alone is needed; an engine provides the `LanguageGraph`.
"""

from __future__ import annotations

from edgekit.language.generated import Generated as Generated
from edgekit.language.generated import Stopped as Stopped
from edgekit.language.generation import generate as generate
from edgekit.language.generation import stream as stream
from edgekit.language.graph import Bools as Bools
from edgekit.language.graph import Ints as Ints
from edgekit.language.graph import LanguageGraph as LanguageGraph
from edgekit.language.options import GenerationOptions as GenerationOptions
from edgekit.language.options import generation_options as generation_options
