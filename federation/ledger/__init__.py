"""The ledger: what was accepted, where it is, how it ended. The truth; everything else is transport."""
