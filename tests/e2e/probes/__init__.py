"""The probe matrix: what a program tries that wants out of its sandbox, and where that is tried."""
