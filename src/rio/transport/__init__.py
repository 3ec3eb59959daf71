"""Bytes and sockets: the codec, the envelopes, and both ends of a connection."""
