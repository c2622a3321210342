"""Runs hosts, clients and kills for minutes; judges by the clients' logs and the machine."""
