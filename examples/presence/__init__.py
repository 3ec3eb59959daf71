"""Who is online, kept up by heartbeats and told to all who subscribe."""
