"""Tells the customer how the order ended, by e-mail and push."""
