"""Hosts, clients and kills for minutes on end, reckoned from the clients' logs and the machine."""
