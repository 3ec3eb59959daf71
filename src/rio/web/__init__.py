"""What a server shows over HTTP, to browsers and to clients that may not read the storage."""
