"""A function in another process: of this interpreter, of an isolated toolchain's, or on a device over SSH.

`call.run` has a function named ``module:function`` do a job (a msgspec structure) elsewhere and returns its result. The
job goes there as a line of JSON, events (`messages`) come back as lines: progress, and at the end the result or the
error. `child` is the other end. `process` starts a child, keeps its last words and leaves nothing of it behind;
`forks` starts children that have slow packages imported already; `toolchains` knows the isolated environments.

Nothing here is imported with the package, so that a child whose imports are measured begins with as few as it can.
"""
