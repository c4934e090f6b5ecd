"""`make new-service`: writes the folder of a service that runs at once, to be filled with what it is for."""
