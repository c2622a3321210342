"""The packet rules of tenants and guests, by nftables."""
