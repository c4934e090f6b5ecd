"""The outside world, small and honest: a payment provider, a carrier, a customer directory, mail and push.

One process (`python -m compose.sandbox`). Test tokens make it decline, refuse, answer slowly, fail, or do
the work and lose the answer; `PUT /faults` makes a whole party of it misbehave for a drill.
"""
