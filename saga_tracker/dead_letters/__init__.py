"""Dead letters: taken in from every service's queue, shown, replayed to that service alone, or discarded."""
