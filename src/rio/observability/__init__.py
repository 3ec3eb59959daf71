"""Traces of what calls do, in programs that use OpenTelemetry."""
