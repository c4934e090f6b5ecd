"""The board: pages that say what a choreographed saga waits for and why, and let a person act."""
