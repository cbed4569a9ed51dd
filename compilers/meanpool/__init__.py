"""The mean-pool compressor: chunks read alone, their hidden states averaged into one embedding each.

`MeanPool` compiles a document with a checkpoint that was trained for its base model
(``memkit train-compressor``); see `memkit.compilers.meanpool.compiler`.
"""
