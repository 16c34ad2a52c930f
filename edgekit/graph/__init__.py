"""HOST: a network before any target: heads, cut, layout, folding, exchange files; BLIP-2's graphs."""
