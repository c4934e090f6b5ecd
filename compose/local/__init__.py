"""The local rig: a private PostgreSQL, a private RabbitMQ and every process of the system, on loopback.

`rig.LocalRig` is the way in; the other modules are its parts.
"""
