"""Who trains what, and when: the device table, the catalogue of rows, the cost model and the policies (policy.md 4)."""
