"""Loggers: copies of metrics.jsonl for TensorBoard, Weights & Biases and trackio. The file stays the truth.

A logger is fed from the file, from where it stood up to what the last checkpoint knows of; lines that a kill takes
back were never fed, so nothing is there twice after a run went on. How far it was fed stands in
`runs/NAME/LOGGER/position.json`: take that directory away, and everything is fed again. Points appear when a
checkpoint is written, at least once a minute in training.

    records.py          lines of metrics.jsonl -> records: a stage, a step, numbers
    feed.py             where a logger stands, and what it gets
    tensorboard.py wandb.py trackio.py    one function each, `begin`; each imports its package, an extra, by itself

No agent and no run is known here.
"""
