"""Rooms that learn from heartbeats which users are online, and publish each change."""
