"""How a student learns from a teacher: what it sees of both, which terms its loss sums, which layers are compared."""
