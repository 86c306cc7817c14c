"""Two-phase commit: the commit machine, transaction ids, the decision record, recovery, the snapshot fence."""
