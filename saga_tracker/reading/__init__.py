"""Reads the stream of all facts into the view, and builds that anew."""
