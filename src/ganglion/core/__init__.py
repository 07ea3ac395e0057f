"""The ground floor: errors, configuration, resources, events, ids, clock, logging, registry and fault points.

Everything else imports this package; it imports only the standard library and msgspec.
"""
