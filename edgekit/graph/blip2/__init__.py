"""HOST: ONNX graphs of transformers, written from a checkpoint one tensor at a time.

A checkpoint may be larger than the memory. So nothing here loads a model: a graph is spelled out operator by operator
(`vision`, `qformer`, `opt`, `t5`), each weight is read from its memory-mapped file, brought into the form that was
asked for (`forms`), written to the external data of the graph (`writer`), and forgotten.
"""
