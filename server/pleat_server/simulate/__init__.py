"""Whole fleets in one process: the same orders, device task, desk and spool, without sockets."""
