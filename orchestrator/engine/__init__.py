"""The deterministic core: steps over replicated state, without clocks, randomness, I/O or wire types.

Read ``model`` (what there is), ``commands`` (what may be asked), ``results`` and ``effects`` (what comes out) first.
"""
