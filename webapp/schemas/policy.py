"""Descriptions of the rules of a policy, for the reference of the API."""

from __future__ import annotations

#: One sentence per field of ``federation.provision.planning.policy.Policy``.
DESCRIPTIONS = {
    "init_blocks": "Blocks to submit when the endpoint is created. Default: 0.",
    "min_blocks": "Blocks to keep even without work. Default: 0.",
    "max_blocks": "Maximum number of blocks at the same time. Default: 1.",
    "nodes_per_block": "Nodes of each block. Default: 1.",
    "slots_per_node": "Calls that run concurrently on each node. Default: 1.",
    "walltime": "Time limit of each job in seconds, at least 60. Default: 3600.",
    "parallelism": "Slots to start per slot that the demand could use: 1 starts all of them, 0.5 half of "
    "them, 0 one block. Default: 1.",
    "slot_work": "Work in seconds that justifies one slot; shorter calls share slots. Default: 60.",
    "unknown_call": "Assumed run time in seconds of calls that have not been measured. Default: 1.",
    "idle_time": "Seconds without work after which a block is drained or a pending one cancelled. "
    "Default: 120.",
    "submit_burst": "Maximum number of submissions in one round. Default: 4.",
    "max_pending": "Maximum number of jobs that are pending in the batch system. Default: 10.",
    "budget_day": "Node-hours that may be used in any 24 hours; 0: no limit. Default: 0.",
    "budget_total": "Node-hours that may be used in total; 0: no limit. Default: 0.",
    "drain_margin": "Seconds before the end of its job from which a worker takes no more calls. Default: 60.",
    "grace": "Seconds after which a drained or cancelled job that has not ended is cancelled again. "
    "Default: 120.",
    "start_timeout": "Seconds after which a running job without a worker counts as failed. Default: 600.",
    "max_failed_blocks": "Consecutive failed blocks that pause the endpoint. Default: 3.",
    "max_failed_submits": "Consecutive rejected submissions that pause the endpoint. Default: 10.",
    "bad_node_strikes": "Failures on a node after which it is avoided. Default: 2.",
    "bad_node_time": "Seconds for which a node is avoided after failures. Default: 86400.",
}
