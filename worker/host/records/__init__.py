"""The JSON documents and the audit logs below the state directory."""
