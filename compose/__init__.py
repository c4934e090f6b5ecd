"""The whole system on one machine: private servers, every process, the sandbox, and the command line."""
