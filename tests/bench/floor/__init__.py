"""The floor: what the same messages, confirms, rows and commits cost bare clients, on the same two servers.

In it: a process for each service and one for the tracker, seven confirmed publishes and eight deliveries a
saga, six calls' rows, all rows of the real tables, batches and bounds as the real settings have them, and
reading before writing. Not in it: HTTP, the outside world (calls are through at once), decoding or encoding
of bodies, deciding, projecting, deadlines, comparing, tracing, metrics, logs, and whatever undoes a fault.
"""
