"""What a run writes to disk: reports before they are acknowledged, one checkpoint a round, the journal, the history."""
