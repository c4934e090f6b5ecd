"""Authorises and captures an order's money, and gives it back when the order comes to nothing."""
