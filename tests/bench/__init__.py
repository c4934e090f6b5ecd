"""`make bench`: whole orders through the running system, counted and timed from outside."""
