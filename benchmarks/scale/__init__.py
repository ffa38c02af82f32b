"""Works with many nodes, users and endpoints at once (W16, W17, W19), on simulated nodes."""

#: Work -> module whose ``run`` measures it.
RUNS = {
    "W16": "benchmarks.scale.slots",
    "W17": "benchmarks.scale.fairness",
    "W19": "benchmarks.scale.crowd",
}
