"""Shared parts that know no task and no method."""
