"""Deletes what is older than anybody wants to keep it: in small steps, by index, exported first if wanted."""
