"""Grants loyalty points for every order that is confirmed, and takes them back never."""
