"""What happens here, as it happens: events on a bus, and the bus over HTTP (docs/events.md)."""
