"""Who may reach a cluster: keys, what each of them may do, and the encryption of connections."""
