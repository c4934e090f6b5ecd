"""The same system in containers, by `docker compose`: compose/compose.yaml."""
